# Builds and installs the C library, shows it at work, and tests everything. Rust programs are built with cargo.
#
#   make                                   build libsafenet.a and libsafenet.so
#   make demo                              classify digits privately: a C server and a C client on this machine
#   make edge-demo                         the same with a client on a microcontroller, simulated by QEMU
#   make edge-size                         what that client's program is made of, in KiB by component
#   make web-demo                          the same with clients in WebAssembly, in Node and in a browser
#   make wasm                              the client's library for these: target/wasm32-unknown-unknown/web/safenet.wasm
#   make test                              run all tests but the planner's
#   make foreign-test                      run the core's tests and the C programs on other processors, simulated by QEMU
#   make planner-test                      run the planner's tests (Debian: python3-torch python3-onnx python3-venv)
#   make models                            compile models/*.onnx again
#   make networks [NET=resnet32]           build and compile the networks that papers measure, all or those named in NET
#   make ladder                            the same for one network with ever fewer ReLUs
#   make performance                       measure all of these again, and renew the documentation's tables and plots
#   make cifar10                           accuracy of the trained CIFAR-10 networks, in the clear and privately
#   make install [PREFIX=/usr/local] [DESTDIR=]
#   make uninstall [PREFIX=/usr/local] [DESTDIR=]
#   make clean

PREFIX  ?= /usr/local
DESTDIR ?=
CARGO   ?= cargo
RUSTC   ?= rustc
INSTALL ?= install
STRIP   ?= strip
PYTHON  ?= python3

NET     ?= minionn minionn-mixed resnet20 resnet32 vgg16 resnet18 resnet18-tiny mobilenetv2 squeezenet resnet50
TRAINED := resnet20 resnet20-planned
LADDER  := minionn minionn-relu75 minionn-relu50 minionn-mixed minionn-relu10 minionn-relu0 minionn-square

# Named by version: programs ask for libsafenet.so.$(ABI) at run time, and for libsafenet.so when they are linked.
ABI     := $(shell sed -n 's/^\#define SAFENET_ABI_VERSION //p' include/safenet.h)
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

BUILT  := target/release
NATIVE := $(BUILT)/native/libraries
TARGET := $(DESTDIR)$(PREFIX)

.PHONY: build install uninstall clean demo edge-demo edge-size web-demo wasm test foreign-test planner-test models networks ladder performance cifar10 $(addprefix cifar10-,$(TRAINED))

# The two crate types by name: cargo optimises across crates only where no Rust library is wanted beside them.
build:
	CARGO_TARGET_DIR=target $(CARGO) rustc --release --locked --package safenet-ffi --lib --crate-type staticlib,cdylib

# What a program needs beside the static library is what Rust's own libraries need: nothing else in it links to anything.
# The compiler says so while it builds an empty library. That one needs a file of its own: the compiler would put a file in
# the place even of /dev/null.
$(NATIVE): build
	mkdir -p $(BUILT)/native
	: > $(BUILT)/native/empty.rs
	$(RUSTC) --crate-type staticlib --print native-static-libs -o $(BUILT)/native/empty.a $(BUILT)/native/empty.rs \
	    2> $(BUILT)/native/notes
	sed -n 's/.*native-static-libs: //p' $(BUILT)/native/notes > $(NATIVE)
	test -s $(NATIVE)

install: build $(NATIVE)
	$(INSTALL) -d "$(TARGET)/include" "$(TARGET)/lib/pkgconfig"
	$(INSTALL) -m 644 include/safenet.h "$(TARGET)/include/safenet.h"
	$(INSTALL) -m 644 $(BUILT)/libsafenet.a "$(TARGET)/lib/libsafenet.a"
	$(STRIP) --strip-debug "$(TARGET)/lib/libsafenet.a"
	$(INSTALL) -m 755 $(BUILT)/libsafenet.so "$(TARGET)/lib/libsafenet.so.$(VERSION)"
	$(STRIP) --strip-unneeded "$(TARGET)/lib/libsafenet.so.$(VERSION)"
	ln -sf libsafenet.so.$(VERSION) "$(TARGET)/lib/libsafenet.so.$(ABI)"
	ln -sf libsafenet.so.$(ABI) "$(TARGET)/lib/libsafenet.so"
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' -e "s|@LIBS_PRIVATE@|$$(cat $(NATIVE))|" \
	    ffi/safenet.pc.in > "$(TARGET)/lib/pkgconfig/safenet.pc"

uninstall:
	rm -f "$(TARGET)/include/safenet.h" "$(TARGET)/lib/libsafenet.a" "$(TARGET)/lib/libsafenet.so" \
	    "$(TARGET)/lib/libsafenet.so.$(ABI)" "$(TARGET)/lib/libsafenet.so.$(VERSION)" "$(TARGET)/lib/pkgconfig/safenet.pc"

demo:
	CARGO="$(CARGO)" scripts/demo

edge-demo:
	CARGO="$(CARGO)" scripts/edge-demo

edge-size:
	scripts/edge-size

web-demo:
	CARGO="$(CARGO)" scripts/web-demo

wasm:
	CARGO_TARGET_DIR=target $(CARGO) rustc --profile web --locked --package safenet-ffi --no-default-features \
	    --target wasm32-unknown-unknown --lib --crate-type cdylib

foreign-test:
	CARGO="$(CARGO)" FOREIGN_DEMO=1 scripts/foreign-tests

# nextest runs tests in parallel processes and reports better; without it the plain runner runs the same tests.
test:
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    $(CARGO) nextest run --workspace --locked; \
	else \
	    $(CARGO) test --workspace --locked --lib --bins --tests; \
	fi
	$(CARGO) test --workspace --locked --doc --quiet

# PyTorch is the system's: PyPI's for Linux brings gigabytes for graphics processors.
SYSTEM_PYTHON ?= /usr/bin/python3

# They run the command with everything in it; SAFENET names another one.
planner-test: target/planner-venv/ready
	test -n "$$SAFENET" || $(CARGO) build --locked --package safenet-cli
	cd planner && SAFENET="$${SAFENET:-$(CURDIR)/target/debug/safenet}" ../target/planner-venv/bin/python -m pytest -q

target/planner-venv/ready: planner/pyproject.toml planner/constraints-debian12.txt
	$(SYSTEM_PYTHON) -c 'import ensurepip, onnx, torch' || { echo "error: $(SYSTEM_PYTHON) lacks a package;" \
	    "on Debian: apt-get install python3-torch python3-onnx python3-venv" >&2; exit 1; }
	$(SYSTEM_PYTHON) -m venv --system-site-packages target/planner-venv
	target/planner-venv/bin/pip install --quiet --constraint planner/constraints-debian12.txt --editable './planner[report,search,test]'
	touch $@

models: $(addprefix models/,$(addsuffix .safenet,mnist-relu mnist-mixed))

models/%.safenet: models/%.onnx models/mnist-calibration.npz
	$(CARGO) run --release --locked --package safenet-cli -- compile $< --calibration models/mnist-calibration.npz -o $@

networks: $(patsubst %,target/networks/%.safenet,$(NET))

ladder: $(patsubst %,target/networks/%.safenet,$(LADDER))

performance: networks ladder
	CARGO_TARGET_DIR=target $(CARGO) build --release --locked --package safenet-cli
	scripts/performance/measure.py
	scripts/performance/report.py

target/networks/%.safenet: target/networks/%.onnx target/networks/%-calibration.npz
	$(CARGO) run --release --locked --package safenet-cli -- compile $< --calibration $(word 2,$^) -o $@

# A rule for two files: one run writes both.
target/networks/%.onnx target/networks/%-calibration.npz: $(wildcard models/networks/*.py) target/networks-venv/ready
	target/networks-venv/bin/python models/networks/build.py $* --out target/networks

$(foreach name,$(TRAINED),$(eval target/networks/$(name).onnx target/networks/$(name)-calibration.npz: \
    models/cifar10-$(name).onnx models/cifar10/data.py))

# Fetches the images: 139 MB. Every value of every layer of the 20 private runs of each network is checked.
cifar10: $(addprefix cifar10-,$(TRAINED))

$(addprefix cifar10-,$(TRAINED)): cifar10-%: target/networks/%.safenet
	target/networks-venv/bin/python models/cifar10/evaluate.py --model models/cifar10-$*.onnx
	$(CARGO) run --release --locked --package safenet-cli -- accuracy $< target/data/cifar10-test.npz
	$(CARGO) run --release --locked --package safenet-cli -- debug $< target/data/cifar10-test.npz --limit 20 --summary

target/networks-venv/ready: models/networks/requirements.txt
	$(PYTHON) -m venv target/networks-venv || { echo "error: $(PYTHON) cannot make a virtual environment;" \
	    "on Debian: apt-get install python3-venv" >&2; exit 1; }
	target/networks-venv/bin/pip install --quiet --requirement $<
	touch $@

.SECONDARY: $(foreach net,$(sort $(NET) $(LADDER)),target/networks/$(net).onnx target/networks/$(net)-calibration.npz)

clean:
	CARGO_TARGET_DIR=target $(CARGO) clean
	$(MAKE) -C examples-c clean
	$(MAKE) -C examples-c/edge clean
