//! Compiles a network and prints the report; with a third file, also the report on other (labelled) samples.
//!
//! `cargo run --release --example report -- model.onnx calibration.npz [test.npz]`

use safenet_compiler::{Options, Samples, compile};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [onnx, calibration, rest @ ..] = arguments.as_slice() else {
        return Err("usage: report model.onnx calibration.npz [test.npz]".into());
    };
    let onnx = std::fs::read(onnx)?;
    let calibration = Samples::from_npz(&std::fs::read(calibration)?)?;
    let compiled = compile(&onnx, &calibration, &Options::default(), &mut |line| eprintln!("{line}"))?;
    print!("{}", compiled.report);
    if let [test, ..] = rest {
        let samples = Samples::from_npz(&std::fs::read(test)?)?;
        print!("on {test}:\n{}", compiled.compare(&samples, samples.count(), samples.count())?);
    }
    Ok(())
}
