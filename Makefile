# Builds and installs the C library. Rust programs and the other packages of this repository are built with cargo.
#
#   make                                   build libsafenet.a and libsafenet.so
#   make install [PREFIX=/usr/local] [DESTDIR=]
#   make uninstall [PREFIX=/usr/local] [DESTDIR=]
#   make clean

PREFIX  ?= /usr/local
DESTDIR ?=
CARGO   ?= cargo
RUSTC   ?= rustc
INSTALL ?= install
STRIP   ?= strip

# Named by version: programs ask for libsafenet.so.$(ABI) at run time, and for libsafenet.so when they are linked.
ABI     := $(shell sed -n 's/^\#define SAFENET_ABI_VERSION //p' include/safenet.h)
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

BUILT  := target/release
NATIVE := $(BUILT)/native/libraries
TARGET := $(DESTDIR)$(PREFIX)

.PHONY: build install uninstall clean

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

clean:
	CARGO_TARGET_DIR=target $(CARGO) clean
	$(MAKE) -C examples-c clean
