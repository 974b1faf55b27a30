//! The models that the repository ships: what they are made from, how exact they are, and that private answers are theirs.

use safenet_compiler::{Options, compile};
use safenet_core::model::{Kind, ModelFile, Op};
use safenet_core::session::{ClientModel, Options as SessionOptions, Phase, Place, ServerModel, Traffic};
use safenet_reference::Reference;
use safenet_tests::{PLANS, Pair, model, read, samples};
use std::collections::{BTreeMap, BTreeSet};

/// Compiling the shipped ONNX again gives the shipped files, bit for bit: nobody has changed one without the other.
#[test]
fn compiling_again_gives_the_same_files() {
    let calibration = samples("mnist-calibration.npz");
    for plan in PLANS {
        let onnx = read(&format!("{plan}.onnx"));
        let options = Options { name: Some(plan.into()), ..Options::default() };
        let compiled = compile(&onnx, &calibration, &options, &mut |_| {}).unwrap();
        let shipped = model(plan);
        assert_eq!(compiled.model.architecture, shipped.architecture, "{plan}: run `make models`");
        assert!(
            *compiled.model.server_bytes().unwrap() == *shipped.server_bytes().unwrap(),
            "{plan}: run `make models`"
        );
    }
}

/// The client's file is the public part of the server's, and holds none of its secrets.
#[test]
fn public_parts_are_public() {
    for plan in PLANS {
        let public = ModelFile::read(&read(&format!("{plan}.public"))).unwrap();
        assert!(public.parameters.is_none());
        assert_eq!(public.architecture, model(plan).architecture);
        assert_eq!(read(&format!("{plan}.public")), model(plan).public_bytes().unwrap(), "{plan}: run `make models`");
    }
}

/// Every kind occurs in the mixed plan, at least three in each layer; the other plan has ReLUs alone.
#[test]
fn the_mixed_plan_mixes_every_kind() {
    let architecture = model("mnist-mixed").architecture;
    let layers: Vec<BTreeSet<&str>> = architecture
        .nodes
        .iter()
        .filter_map(|node| match &node.op {
            Op::Activation(activation) => Some(activation.channels.iter().map(|c| c.kind.name()).collect()),
            _ => None,
        })
        .collect();
    assert_eq!(layers.len(), 4, "three planned layers and the output");
    assert!(layers[..3].iter().all(|kinds| kinds.len() >= 3), "{layers:?}");
    let all: BTreeSet<&str> = layers.into_iter().flatten().collect();
    assert_eq!(all, BTreeSet::from(["relu", "cubic", "square", "linear", "zero"]));
    let relu = model("mnist-relu").architecture;
    let all_relu = |op: &Op| matches!(op, Op::Activation(a) if a.channels.iter().all(|c| c.kind == Kind::Relu));
    assert_eq!(relu.nodes.iter().filter(|node| all_relu(&node.op)).count(), 3);
}

/// Index of the largest score.
fn class(scores: &[i32]) -> usize {
    (0..scores.len()).max_by_key(|&i| scores[i]).unwrap_or(0)
}

/// The fixed-point network in the clear, on 1,000 digits that training never saw.
#[test]
fn accuracy_in_the_clear() {
    let digits = samples("mnist-test.npz");
    let labels = digits.labels().unwrap();
    for (plan, least) in [("mnist-relu", 985), ("mnist-mixed", 980)] {
        let reference = Reference::new(&model(plan)).unwrap();
        let mut right = 0;
        for (image, &label) in digits.iter().zip(labels) {
            let trace = reference.run_nominal(&reference.quantise(image).unwrap()).unwrap();
            right += usize::from(class(&trace.nominal_answer()) as i64 == label);
        }
        assert!(right >= least, "{plan}: {right} of 1,000");
    }
}

/// Private answers lie within the reference's intervals, give its class, and cost what was forecast.
#[test]
fn private_answers_are_the_references() {
    let digits = samples("mnist-test.npz");
    for plan in PLANS {
        let file = model(plan);
        let reference = Reference::new(&file).unwrap();
        let client = ClientModel::new(file.architecture.clone()).unwrap();
        let server = ServerModel::new(file).unwrap();
        for session in 0..4u8 {
            let mut pair = Pair::new(&client, &server, [[session; 32], [session + 100; 32]]);
            for image in digits.iter().skip(session as usize * 10).take(10) {
                let input = client.encode(image).unwrap();
                assert_eq!(*input, reference.quantise(image).unwrap());
                let output = pair.infer(&input);
                let trace = reference.run(&input).unwrap();
                assert_eq!(trace.contains(&output).unwrap(), None, "{plan}");
                assert!(trace.overflow.is_none());
                assert_eq!(class(&output), class(&trace.nominal_answer()), "{plan}");
            }
        }
        let mut pair = Pair::new(&client, &server, [[77; 32], [78; 32]]);
        pair.infer(&vec![0; client.inputs()]);
        let meter = pair.client.meter();
        let forecast = client.forecast(&SessionOptions::default());
        let spent = meter.traffic().into_iter().filter(|(place, _)| place.phase != Phase::Setup);
        let expected = forecast.traffic.into_iter().filter(|(_, traffic)| *traffic != Traffic::default());
        assert_eq!(spent.collect::<BTreeMap<Place, Traffic>>(), expected.collect(), "{plan}");
        assert_eq!(meter.rounds(Phase::Prepare), forecast.prepare_rounds, "{plan}");
        assert_eq!(meter.rounds(Phase::Infer), forecast.infer_rounds, "{plan}");
        // At most 50 bytes online per activation.
        let online = meter.phase(Phase::Infer);
        let activations = 8 * 28 * 28 + 16 * 14 * 14 + 64;
        assert!((online.sent + online.received) / activations <= 50, "{plan}: {online:?}");
    }
}
