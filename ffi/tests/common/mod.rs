//! What the tests of the C interface share: paths, compilers, a tiny network and its plain evaluation.
#![allow(dead_code, reason = "every test program uses a part")]

use safenet_core::model::{
    Activation, Architecture, Calibration, Channel, ChannelSecret, Convolution, Kind, ModelFile, Node, NodeSecret, Op,
    Output, Parameters, Shape,
};
use safenet_core::prg::{Prg, Seed};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// One of the libraries that were built together with this test.
pub(crate) fn library(name: &str) -> PathBuf {
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    [folder.join(name), folder.parent().unwrap().join(name)]
        .into_iter()
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("expected {name} in or above {}, got none", folder.display()))
}

/// A compiler that finds the header.
pub(crate) fn compile(compiler: &str) -> Command {
    let mut command = Command::new(compiler);
    command.arg("-I").arg(repository().join("include"));
    command
}

/// Runs a command that must succeed, and returns what it printed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// What a statically linked program needs besides libsafenet.a, as `rustc --print native-static-libs` says.
pub(crate) fn system_libraries() -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("empty.rs");
    std::fs::write(&source, "").unwrap();
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--crate-type", "staticlib", "--print", "native-static-libs", "-o"])
        .arg(folder.path().join("empty.a"))
        .arg(&source)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let libraries = text.lines().find_map(|line| line.split("native-static-libs: ").nth(1)).unwrap();
    libraries.split_whitespace().map(str::to_owned).collect()
}

/// Side of the tiny network's input.
pub(crate) const SIDE: usize = 4;
/// Its input values.
pub(crate) const INPUTS: usize = SIDE * SIDE;
/// Its output values.
pub(crate) const OUTPUTS: usize = 3;
const MAPS: usize = 2;

/// A network with small random weights: 3x3 convolution of a 1x4x4 input, exact ReLU, dense layer with three outputs. Input,
/// hidden values and output have 8 fraction bits, weights 4. Its ReLUs are of 13 bits, so that they may take two round trips.
pub(crate) fn tiny() -> ModelFile {
    let mut prg = Prg::new(&Seed::from_bytes([7; 32]));
    let mut weights = |count: usize| (0..count).map(|_| prg.below(31) as i16 - 15).collect::<Vec<_>>();
    let channel = |kind, bound_bits, shift| Channel { kind, bound_bits, shift, back_shift: 0 };
    let layer = |channel, count| Activation { fraction_bits: 8, channels: vec![channel; count] };
    let conv = |out_channels: usize, kernel, pad| {
        Op::Convolution(Convolution { padding: [pad; 4], ..Convolution::new(out_channels as u32, [kernel; 2]) })
    };
    let node = |name: &str, input, op| Node { name: name.into(), inputs: vec![input], op };
    ModelFile {
        architecture: Architecture {
            name: "tiny".into(),
            input: Shape { channels: 1, height: SIDE as u32, width: SIDE as u32 },
            input_fraction_bits: 8,
            input_range: [0, 256],
            nodes: vec![
                node("conv", 0, conv(MAPS, 3, 1)),
                node("relu", 1, Op::Activation(layer(channel(Kind::Relu, 17, 4), MAPS))),
                node("flat", 2, Op::Flatten),
                node("dense", 3, conv(OUTPUTS, 1, 0)),
                node("scores", 4, Op::Activation(layer(channel(Kind::Linear, 23, 4), OUTPUTS))),
            ],
            output: Output::Scores,
        },
        parameters: Some(Parameters {
            calibration: Calibration::default(),
            scales: vec![],
            nodes: vec![
                NodeSecret::Convolution { weights: weights(MAPS * 9), bias: vec![100, -200] },
                NodeSecret::Activation(vec![ChannelSecret::default(); MAPS]),
                NodeSecret::None,
                NodeSecret::Convolution { weights: weights(OUTPUTS * MAPS * INPUTS), bias: vec![1000, -2000, 3000] },
                NodeSecret::Activation(vec![ChannelSecret::default(); OUTPUTS]),
            ],
        }),
    }
}

/// The tiny network in real numbers, on an encoded input.
pub(crate) fn evaluate(model: &ModelFile, input: &[i32]) -> Vec<f64> {
    let nodes = &model.parameters.as_ref().unwrap().nodes;
    let layer = |index: usize| match &nodes[index] {
        NodeSecret::Convolution { weights, bias } => (weights, bias),
        _ => panic!(),
    };
    let (weights, bias) = layer(0);
    let mut hidden = vec![];
    for map in 0..MAPS {
        for i in 0..SIDE as isize {
            for j in 0..SIDE as isize {
                let mut sum = bias[map];
                for di in 0..3 {
                    for dj in 0..3 {
                        let (row, column) = (i + di - 1, j + dj - 1);
                        if (0..SIDE as isize).contains(&row) && (0..SIDE as isize).contains(&column) {
                            let weight = weights[map * 9 + (di * 3 + dj) as usize];
                            sum += i32::from(weight) * input[(row * SIDE as isize + column) as usize];
                        }
                    }
                }
                hidden.push((f64::from(sum) / 16.0).max(0.0));
            }
        }
    }
    let (weights, bias) = layer(3);
    (0..OUTPUTS)
        .map(|o| {
            let products = weights[o * hidden.len()..].iter().zip(&hidden).map(|(&w, h)| f64::from(w) * h);
            (products.sum::<f64>() + f64::from(bias[o])) / 16.0
        })
        .collect()
}

/// Whether outputs are those of [`evaluate`], as far as rounding goes: each of the 32 hidden values and each output is one of
/// the two integers next to the exact one, and a weight is at most 15/16.
pub(crate) fn close(outputs: &[i32], exact: &[f64]) -> bool {
    outputs.len() == exact.len() && outputs.iter().zip(exact).all(|(&got, want)| (f64::from(got) - want).abs() < 32.0)
}

/// An encoded input of the tiny network.
pub(crate) fn image(seed: u8) -> Vec<i32> {
    let mut prg = Prg::new(&Seed::from_bytes([seed; 32]));
    (0..INPUTS).map(|_| prg.below(256) as i32 * 256 / 255).collect()
}

/// Whether a program that some tests need is installed. Where `SAFENET_TEST_ALL` is set, it must be.
pub(crate) fn available(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    assert!(found || std::env::var_os("SAFENET_TEST_ALL").is_none(), "expected {program} to be installed, it is not");
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}
