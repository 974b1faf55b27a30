//! The example programs of `examples-c`, compiled against this build of the library and run against each other over
//! loopback: good and bad clients, files and arguments; and all of it under valgrind where that is installed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod common;

use common::{
    INPUTS, OUTPUTS, SIDE, available, close, compile, evaluate, image, library, repository, run, system_libraries, tiny,
};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::OnceLock;

/// A folder with both programs, the tiny model's files and images.
fn programs() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            for (program, sources) in [
                ("client", &["client", "image", "common"][..]),
                ("server", &["server", "common"]),
                ("minimal", &["minimal"]),
            ] {
                let mut command = compile("cc");
                command.args([
                    "-std=c11",
                    "-g",
                    "-pthread",
                    "-Wall",
                    "-Wextra",
                    "-Wpedantic",
                    "-Wconversion",
                    "-Werror",
                ]);
                command.args(sources.iter().map(|name| repository().join(format!("examples-c/{name}.c"))));
                run(command
                    .arg(library("libsafenet.a"))
                    .args(system_libraries())
                    .arg("-o")
                    .arg(folder.path().join(program)));
            }
            let model = tiny();
            write(folder.path(), "tiny.model", &model.server_bytes().unwrap());
            write(folder.path(), "tiny.public", &model.public_bytes().unwrap());
            let mut other = tiny();
            other.architecture.name = "another".into();
            write(folder.path(), "other.public", &other.public_bytes().unwrap());
            for seed in [1, 2] {
                write(folder.path(), &format!("{seed}.pgm"), &pgm("P5\n# a comment\n4 4\n255\n", &pixels(seed)));
            }
            folder
        })
        .path()
}

fn write(folder: &Path, name: &str, contents: &[u8]) -> PathBuf {
    fs::write(folder.join(name), contents).unwrap();
    folder.join(name)
}

fn pgm(header: &str, pixels: &[u8]) -> Vec<u8> {
    [header.as_bytes(), pixels].concat()
}

/// An image whose encoding is exactly `image(seed)`, but for rounding.
fn pixels(seed: u8) -> Vec<u8> {
    image(seed).iter().map(|&v| (v * 255 / 256) as u8).collect()
}

fn encoded(pixels: &[u8]) -> Vec<i32> {
    pixels.iter().map(|&p| (f32::from(p) / 255.0 * 256.0).round() as i32).collect()
}

/// The command of a program, under valgrind if asked for. Whatever valgrind finds is exit status 99.
fn program(name: &str, valgrind: bool) -> Command {
    let path = programs().join(name);
    if !valgrind {
        return Command::new(path);
    }
    let mut command = Command::new("valgrind");
    command.args(["--quiet", "--leak-check=full", "--show-leak-kinds=definite,indirect,possible"]);
    command.args(["--errors-for-leak-kinds=definite,indirect,possible", "--error-exitcode=99", "--track-fds=no"]);
    let known = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/valgrind.supp");
    command.arg(format!("--suppressions={}", known.display())).arg(path);
    command
}

fn start(command: &mut Command) -> (Child, String, BufReader<ChildStdout>) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let address = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}")).trim().to_owned();
    (child, address, lines)
}

/// Asks a server to stop, and returns its exit status and what else it printed.
fn stop(mut child: Child, mut lines: BufReader<ChildStdout>) -> (Option<i32>, String, String) {
    run(Command::new("kill").args(["-TERM", &child.id().to_string()]));
    let status = child.wait().unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    lines.read_to_string(&mut out).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    (status.code(), out, err)
}

fn server(valgrind: bool) -> Command {
    let mut command = program("server", valgrind);
    command.arg(programs().join("tiny.model")).args(["--port", "0"]);
    command
}

fn client(valgrind: bool, address: &str, model: &str, images: &[&Path]) -> Command {
    let mut command = program("client", valgrind);
    command.arg(address).arg("--model").arg(programs().join(model)).args(images);
    command
}

fn text(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n{out}{err}", output.status)
}

/// Checks a client's JSON lines against the plain evaluation of the images' pixels.
fn check_json(path: &Path, images: &[(&Path, Vec<u8>)]) {
    let lines = fs::read_to_string(path).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), images.len());
    for (line, (path, pixels)) in lines.iter().zip(images) {
        assert_eq!(line["image"], path.to_str().unwrap());
        let outputs: Vec<i32> =
            line["outputs"].as_array().unwrap().iter().map(|v| v.as_i64().unwrap().try_into().unwrap()).collect();
        assert!(close(&outputs, &evaluate(&tiny(), &encoded(pixels))), "{outputs:?}");
        for (score, output) in line["scores"].as_array().unwrap().iter().zip(&outputs) {
            assert_eq!(score.as_f64().unwrap(), f64::from(*output) / 256.0);
        }
        let class = line["class"].as_u64().unwrap() as usize;
        assert_eq!(outputs[class], *outputs.iter().max().unwrap());
        assert_eq!(outputs.len(), OUTPUTS);
        for number in ["prepare_ms", "online_ms"] {
            assert!(line[number].as_f64().unwrap() > 0.0, "{line}");
        }
        for number in ["prepare_bytes", "online_bytes", "rounds_prepare", "rounds_online"] {
            assert!(line[number].as_u64().unwrap() > 0, "{line}");
        }
    }
}

/// Good and bad clients, one after another and side by side, at one server.
fn serve_good_and_bad(valgrind: bool) {
    let folder = programs();
    let (child, address, lines) = start(server(valgrind).args(["--timeout", "300", "--threads", "2"]));
    let silent = TcpStream::connect(&address).unwrap();
    let mut liar = TcpStream::connect(&address).unwrap();
    liar.write_all(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n").unwrap();
    let mut answer = vec![];
    liar.read_to_end(&mut answer).unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("frame header: expected"), "{answer:?}");
    drop(TcpStream::connect(&address).unwrap());

    let output = client(valgrind, &address, "other.public", &[&folder.join("1.pgm")]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("mismatch between the parties"), "{}", text(&output));
    assert!(text(&output).contains("model id: expected"), "{}", text(&output));

    let images = [folder.join("1.pgm"), folder.join("2.pgm")];
    let json: Vec<PathBuf> = (0..2).map(|i| folder.join(format!("{valgrind}{i}.json"))).collect();
    let clients: Vec<Child> = json
        .iter()
        .zip([&["--prepare", "1", "--threads", "2"][..], &["--ot", "silent", "--poll", "0", "--round-trips", "auto"]])
        .map(|(json, more)| {
            let mut command = client(valgrind, &address, "tiny.public", &[&images[0], &images[1]]);
            command.arg("--json").arg(json).args(more).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for (child, json) in clients.into_iter().zip(&json) {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        assert!(text(&output).contains("model tiny: input 1x4x4, 3 outputs"), "{}", text(&output));
        check_json(json, &[(&images[0], pixels(1)), (&images[1], pixels(2))]);
    }

    let (status, out, err) = stop(child, lines);
    drop(silent);
    assert_eq!((status, err.as_str()), (Some(0), ""), "{out}");
    let count = |what: &str| out.lines().filter(|line| line.contains(what)).count();
    assert_eq!(count("inferences"), 6, "{out}");
    assert_eq!(count(": 2 inferences, "), 2, "{out}");
    assert_eq!(count(": 0 inferences, "), 4, "{out}");
    assert_eq!(count("error: malformed message: frame header"), 1, "{out}");
    assert_eq!(count("error: mismatch between the parties: model id"), 1, "{out}");
    assert_eq!(count("error: aborted: connection: expected the client's next message"), 2, "{out}");
}

#[test]
fn a_server_outlives_bad_clients_and_serves_good_ones_side_by_side() {
    serve_good_and_bad(false);
}

#[test]
fn valgrind_finds_no_error_and_no_leak() {
    if available("valgrind") {
        serve_good_and_bad(true);
    }
}

#[test]
fn inputs_come_as_images_as_raw_floats_and_as_text() {
    let folder = programs();
    let (mut child, address, _lines) = start(server(false).arg("--once"));
    let half = vec![51; INPUTS];
    let floats: Vec<f32> = half.iter().map(|&p| f32::from(p) / 255.0).collect();
    let raw: Vec<u8> = floats.iter().flat_map(|v| v.to_le_bytes()).collect();
    let words: String = floats.iter().map(|v| format!(" {v}\n")).collect();
    // The same values, another way to say them: a fifth of the largest.
    let fifth = vec![3; INPUTS];
    let images = [
        write(folder, "half.pgm", &pgm("P5 4 4 255\n", &half)),
        write(folder, "half.f32", &raw),
        write(folder, "half.txt", words.as_bytes()),
        write(folder, "fifth.pgm", &pgm("P5\n4\n# between\n4 15\t", &fifth)),
    ];
    let json = folder.join("kinds.json");
    let paths: Vec<&Path> = images.iter().map(PathBuf::as_path).collect();
    run(client(false, &address, "tiny.public", &paths).arg("--json").arg(&json));
    let expected: Vec<(&Path, Vec<u8>)> = paths.iter().map(|&path| (path, half.clone())).collect();
    check_json(&json, &expected);
    assert!(child.wait().unwrap().success());
}

/// The program that the README shows is the one in the folder, and classifies a digit with the shipped model.
#[test]
fn the_readmes_client_works() {
    let source = fs::read_to_string(repository().join("examples-c/minimal.c")).unwrap();
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    assert!(readme.contains(&format!("```c\n{source}```")), "README.md: expected examples-c/minimal.c, word for word");

    let models = repository().join("models");
    let mut command = program("server", false);
    command.arg(models.join("mnist-mixed.safenet")).args(["--port", "0"]);
    let (child, address, lines) = start(&mut command);
    let port = address.rsplit(':').next().unwrap();
    let output = program("minimal", false)
        .arg(models.join("mnist-mixed.public"))
        .arg(port)
        .stdin(fs::File::open(models.join("digits/00-7.pgm")).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let scores: Vec<f32> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| line.split(": ").nth(1).unwrap().parse().unwrap())
        .collect();
    assert_eq!((0..10).max_by(|&a, &b| scores[a].total_cmp(&scores[b])), Some(7), "{scores:?}");
    stop(child, lines);
}

#[test]
fn a_failed_session_is_the_exit_status_of_a_server_that_serves_once() {
    let (mut child, address, mut lines) = start(server(false).arg("--once"));
    drop(TcpStream::connect(&address).unwrap());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(line.contains("0 inferences") && line.contains("error: aborted"), "{line}");
}

#[test]
fn a_silent_client_is_let_go() {
    let (mut child, address, mut lines) = start(server(false).args(["--once", "--timeout", "1"]));
    let silent = TcpStream::connect(&address).unwrap();
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(line.contains("error: transport failed") && line.contains("silent for too long"), "{line}");
    drop(silent);
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn bad_arguments_are_named() {
    let folder = programs();
    let model = folder.join("tiny.model");
    let model = model.to_str().unwrap();
    let public = folder.join("tiny.public");
    let public = public.to_str().unwrap();
    let missing = folder.join("missing");
    let missing = missing.to_str().unwrap();
    let image = folder.join("1.pgm");
    let image = image.to_str().unwrap();
    let cases: &[(&str, &[&str], i32, &str)] = &[
        ("server", &[], 2, "expected a MODEL file, got none"),
        ("server", &[model], 2, "expected --port P, got none"),
        ("server", &[model, "--port"], 2, "--port: expected an argument after it"),
        ("server", &[model, "--port", "65536"], 2, "--port: expected a number from 0 to 65535, got '65536'"),
        ("server", &[model, "--port", "1x"], 2, "got '1x'"),
        ("server", &[model, model, "--port", "0"], 2, "expected one MODEL"),
        ("server", &[model, "--prot", "0"], 2, "got '--prot'"),
        ("server", &[missing, "--port", "0"], 1, "missing: expected a readable file, got: No such file"),
        ("server", &[public, "--port", "0"], 1, "tiny.public: model: expected the server's file with its secrets"),
        ("server", &[model, "--port", "0", "--bind", "300.1.1.1"], 1, "listening on 300.1.1.1 port 0: expected"),
        ("client", &[], 2, "expected HOST:PORT, got none"),
        ("client", &["localhost:1"], 2, "expected --model PUBLIC, got none"),
        ("client", &["localhost:1", "--model", public], 2, "expected an IMAGE, got none"),
        (
            "client",
            &["localhost:1", "--model", public, "--prepare", "0", image],
            2,
            "--prepare: expected a number from 1",
        ),
        ("client", &["localhost:1", "--model", public, "--what", image], 2, "got '--what'"),
        ("client", &["127.0.0.1:1", "--model", public, "--poll", "-1", image], 2, "--poll: expected a number from 0"),
        (
            "client",
            &["127.0.0.1:1", "--model", public, "--round-trips", "4", image],
            2,
            "--round-trips: expected a number from 2 to 3, got '4'",
        ),
        ("client", &["127.0.0.1:1", "--model", public, "--mbit", "0", image], 2, "--mbit: expected a number from 1"),
        ("server", &[model, "--port", "0", "--poll", "100001"], 2, "--poll: expected a number from 0 to 100000"),
        ("client", &["localhost", "--model", public, image], 1, "server: expected HOST:PORT, got 'localhost'"),
        ("client", &["127.0.0.1:1", "--model", public, image], 1, "connecting to 127.0.0.1 port 1: expected"),
        ("client", &["127.0.0.1:1", "--model", image, image], 1, "1.pgm: model file: magic: expected"),
        ("client", &["127.0.0.1:1", "--model", public, missing], 1, "missing: expected a readable file"),
        ("client", &["127.0.0.1:1", "--model", public, "--ot", "3", image], 1, "or 1 for the silent one, got 3"),
        ("client", &["127.0.0.1:1", "--model", public, "--threads", "257", image], 1, "expected 1 to 256, got 257"),
        ("server", &[model, "--port", "0", "--threads", "257"], 1, "threads: expected 1 to 256, got 257"),
        (
            "client",
            &["127.0.0.1:1", "--model", public, "--json", "/", image],
            1,
            "--json /: expected a file that can be",
        ),
    ];
    for (name, arguments, status, expected) in cases {
        let output = program(name, false).args(*arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(*status), "{arguments:?}: {}", text(&output));
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(complaint.starts_with(&format!("{name}: ")) && complaint.contains(expected), "{complaint}");
    }
    for name in ["client", "server"] {
        assert!(run(program(name, false).arg("--help")).starts_with(&format!("usage: {name} ")));
    }
}

#[test]
fn bad_images_are_named() {
    let folder = programs();
    let good = [1; INPUTS];
    let cases: &[(&str, Vec<u8>, &str)] = &[
        (
            "size.pgm",
            pgm("P5 5 4 255 ", &[1; 20]),
            "expected an image of the model's 1x4x4 (channels x height x width), got 1x4x5",
        ),
        ("colour.ppm", pgm("P6 4 4 255 ", &[1; 48]), "got 3x4x4"),
        ("short.pgm", pgm("P5 4 4 255 ", &good[1..]), "expected 16 bytes of pixels after the header, got 15"),
        ("long.pgm", pgm("P5 4 4 255 ", &[1; 17]), "got 17"),
        ("deep.pgm", pgm("P5 4 4 65535 ", &[1; 32]), "8 bits (largest value 1 to 255), got largest value 65535"),
        ("over.pgm", pgm("P5 4 4 100 ", &[101; 16]), "expected values of at most 100, got 101"),
        ("header.pgm", b"P5 4 x".to_vec(), "expected width, height and largest value after 'P5'"),
        ("cut.pgm", b"P5 4 4 255".to_vec(), "expected width, height and largest value after 'P5'"),
        (
            "ascii.pgm",
            b"P2 4 4 255 1 2 3".to_vec(),
            "expected a P5 or P6 image, a .f32 file or numbers as text, got something else at byte 0",
        ),
        ("short.f32", vec![0; 60], "expected 16 floats, 64 bytes, got 60 bytes"),
        ("odd.f32", vec![0; 65], "got 65 bytes"),
        ("few.txt", b"1 2 3".to_vec(), "expected 16 numbers, got 3"),
        ("empty.txt", vec![], "expected 16 numbers, got 0"),
        ("zero.txt", vec![0; 4], "got something else at byte 0"),
    ];
    for (name, contents, expected) in cases {
        let path = write(folder, name, contents);
        // Found before the server is asked for: there is none.
        let output = client(false, "127.0.0.1:1", "tiny.public", &[&path]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(complaint.contains(name) && complaint.contains(expected), "{name}: {complaint}");
    }
    assert_eq!(SIDE * SIDE, INPUTS);
}
