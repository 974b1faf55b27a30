//! `include/safenet.h` is what the source says, its functions are what the libraries export, and C and C++ take it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod common;

use common::{available, compile, library, repository, run};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The names of the functions that the header declares.
fn declared(header: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut comment = false;
    for line in header.lines() {
        comment |= line.trim_start().starts_with("/*");
        if !comment && !line.contains("(*") {
            for (at, _) in line.match_indices("safenet_") {
                let name: String = line[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                if line[at + name.len()..].starts_with('(') {
                    names.insert(name);
                }
            }
        }
        comment &= !line.contains("*/");
    }
    names
}

fn header() -> String {
    fs::read_to_string(repository().join("include/safenet.h")).unwrap()
}

/// The header as programs on a hosted system see it.
fn hosted_header() -> String {
    let (mut lines, mut bare) = (vec![], false);
    for line in header().lines().map(str::to_owned) {
        bare |= line == "#if defined(SAFENET_BARE_METAL)";
        if !bare {
            lines.push(line);
        } else if line == "#endif" {
            bare = false;
        }
    }
    lines.join("\n")
}

#[test]
fn the_committed_header_is_current() {
    let ffi = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(ffi.join("cbindgen.toml")).unwrap();
    let mut generated = vec![];
    cbindgen::Builder::new().with_crate(ffi).with_config(config).generate().unwrap().write(&mut generated);
    let generated = String::from_utf8(generated).unwrap();
    if std::env::var_os("SAFENET_UPDATE_HEADER").is_some() {
        fs::write(repository().join("include/safenet.h"), &generated).unwrap();
    }
    assert!(
        header() == generated,
        "include/safenet.h differs from what the source says; after a look at what changed, write it anew with\n    \
         SAFENET_UPDATE_HEADER=1 cargo test -p safenet-ffi --test header"
    );
}

#[test]
fn the_shared_library_exports_the_headers_functions_and_nothing_else() {
    let exported = run(Command::new("nm").args(["-D", "--defined-only"]).arg(library("libsafenet.so")));
    let exported: BTreeSet<String> =
        exported.lines().filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect();
    let declared = declared(&hosted_header());
    assert!(declared.len() > 20, "{declared:?}");
    assert_eq!(exported, declared);
}

#[test]
fn the_shared_librarys_name_has_the_interfaces_version() {
    let dynamic = run(Command::new("readelf").arg("-d").arg(library("libsafenet.so")));
    let expected = format!("[libsafenet.so.{}]", safenet::version::SAFENET_ABI_VERSION);
    assert!(dynamic.lines().any(|line| line.contains("SONAME") && line.contains(&expected)), "{dynamic}");
    assert!(header().contains(&format!("#define SAFENET_ABI_VERSION {}\n", safenet::version::SAFENET_ABI_VERSION)));
}

#[test]
fn c99_and_cpp11_take_the_header_without_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    // Alone, and twice: it brings what it needs, and its guard holds.
    let source = "#include <safenet.h>\n#include <safenet.h>\nint main(void) { return safenet_abi_version() == SAFENET_ABI_VERSION ? 0 : 1; }\n";
    for (compiler, file, standard, more) in [
        ("cc", "header.c", "-std=c99", "-Wstrict-prototypes"),
        ("cc", "header.c", "-std=c11", "-Wstrict-prototypes"),
        ("c++", "header.cpp", "-std=c++11", "-Wold-style-cast"),
        ("c++", "header.cpp", "-std=c++17", "-Wold-style-cast"),
    ] {
        if !available(compiler) {
            continue;
        }
        let file = folder.path().join(file);
        fs::write(&file, source).unwrap();
        for platform in ["-USAFENET_BARE_METAL", "-DSAFENET_BARE_METAL"] {
            let mut command = compile(compiler);
            command.args([standard, more, platform, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wconversion"]);
            run(command.arg("-c").arg(&file).arg("-o").arg(folder.path().join("header.o")));
        }
    }
}

#[test]
fn every_exported_function_enters_through_the_panic_boundary() {
    let source: String = ["client", "server", "model", "status", "version", "bare"]
        .map(|name| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/{name}.rs"))).unwrap())
        .concat();
    // These read constants, or an error's text under the session's lock: nothing in them can panic. On bare metal there is
    // no boundary, and its own functions are called before there is memory.
    let constant = [
        "safenet_abi_version",
        "safenet_version",
        "safenet_status_text",
        "safenet_client_error",
        "safenet_server_error",
        "safenet_arena_set",
        "safenet_arena_used",
        "safenet_arena_peak",
    ];
    let mut seen = BTreeSet::new();
    for item in source.split("#[unsafe(no_mangle)]").skip(1) {
        let name: String = item.split("fn ").nth(1).unwrap().chars().take_while(|&c| c != '(').collect();
        let body = &item[..item.find("\n}\n").unwrap()];
        let guarded = ["pointer::call(", "call(client", "call(server", "session::free(", "free(model)"];
        assert!(
            constant.contains(&name.as_str()) || guarded.iter().any(|entry| body.contains(entry)),
            "{name}: expected a body that runs inside the panic boundary, got\n{body}"
        );
        seen.insert(name);
    }
    assert_eq!(seen, declared(&header()));
}

#[test]
fn every_status_has_its_text_and_the_header_has_every_status() {
    let text =
        |status| unsafe { std::ffi::CStr::from_ptr(safenet::status::safenet_status_text(status)) }.to_str().unwrap();
    let header = header();
    let values: Vec<i32> = header
        .lines()
        .filter_map(|line| line.trim().strip_prefix("SAFENET_ERROR_").or(line.trim().strip_prefix("SAFENET_OK")))
        .map(|line| line.split('=').nth(1).unwrap().trim().trim_end_matches(',').parse().unwrap())
        .collect();
    assert_eq!(values, (-15..=0).rev().collect::<Vec<_>>());
    for value in values {
        assert_ne!(text(value), "unknown status");
    }
    for value in [1, 5, -16, i32::MIN, i32::MAX] {
        assert_eq!(text(value), "unknown status");
    }
}
