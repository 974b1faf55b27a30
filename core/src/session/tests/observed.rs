//! Observers: what they are told of where a session goes.

use super::{Pipe, models};
use crate::session::{Phase, Place};
use alloc::{boxed::Box, sync::Arc, vec, vec::Vec};
use spin::Mutex;

/// The places that a party enters, whatever pieces its bytes come in.
fn places(chunk: usize) -> [Vec<Place>; 2] {
    let (_, client, server) = models();
    let mut pipe = Pipe::new(&client, &server, chunk, 3);
    let seen: [Arc<Mutex<Vec<Place>>>; 2] = Default::default();
    let note = |seen: &Arc<Mutex<Vec<Place>>>| {
        let seen = seen.clone();
        Box::new(move |place| seen.lock().push(place))
    };
    pipe.client.observe(note(&seen[0]));
    pipe.server.observe(note(&seen[1]));
    pipe.client.prepare(1).unwrap();
    pipe.run().unwrap();
    pipe.infer(&vec![1; client.inputs()]).unwrap();
    for (seen, meter) in seen.iter().zip([pipe.client.meter(), pipe.server.meter()]) {
        assert_eq!(seen.lock().last(), Some(&meter.place()));
        // A round trip was counted at a place that the observer has seen.
        for phase in [Phase::Setup, Phase::Prepare, Phase::Infer] {
            let mut distinct = seen.lock().clone();
            distinct.sort();
            distinct.dedup();
            let own = distinct.into_iter().filter(|place| place.phase == phase);
            assert_eq!(own.map(|place| meter.rounds_at(place)).sum::<u64>(), meter.rounds(phase));
        }
    }
    seen.map(|seen| seen.lock().clone())
}

#[test]
fn observers_see_every_place_in_order() {
    let whole = places(usize::MAX);
    assert_eq!(places(100), whole);
    let (file, _, _) = models();
    let online: Vec<Option<u32>> = whole[1].iter().filter(|p| p.phase == Phase::Infer).map(|p| p.node).collect();
    let nodes = 0..file.architecture.nodes.len() as u32;
    let expected: Vec<Option<u32>> = [None].into_iter().chain(nodes.map(Some)).chain([None]).collect();
    assert_eq!(online, expected, "the server computes node after node");
}
