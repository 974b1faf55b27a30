//! Every byte that two parties exchange, as a known answer: it depends on their seeds alone, not on the machine's byte order, word
//! size or vectors, nor on how the library was built.

use super::{Pipe, graphs, network, turn};
use crate::model::ModelFile;
use crate::ot::Extension;
use crate::ot::softspoken::Depth;
use crate::prg::{Prg, Seed};
use crate::session::{Client, ClientModel, Options, RoundTrips, Server, ServerModel, Status};
use alloc::{format, string::String, vec, vec::Vec};
use sha2::{Digest, Sha256};

/// Runs a session that prepares `count` inferences and then one, and does one each time; the bytes and half a hash of each direction,
/// and half a hash of the answers.
fn transcript(file: &ModelFile, extension: Extension, round_trips: RoundTrips, count: u32) -> String {
    let client = ClientModel::read(&file.public_bytes().unwrap()).unwrap();
    let server = ServerModel::read(&file.server_bytes().unwrap()).unwrap();
    let options = Options { extension, round_trips, ..Options::default() };
    let mut pipe = Pipe::new(&client, &server, usize::MAX, 0);
    pipe.client = Client::new(&client, options, Seed::from_bytes([21; 32]));
    pipe.server = Server::new(&server, options, Seed::from_bytes([22; 32]));
    let mut hashes = [Sha256::new(), Sha256::new()];
    let mut bytes = [0; 2];
    let mut run = |pipe: &mut Pipe| {
        let mut send = |direction: usize, sent: Vec<u8>| {
            bytes[direction] += sent.len();
            hashes[direction].update(&sent);
            sent
        };
        loop {
            let mut sent = vec![];
            let status = turn(&mut pipe.client, &mut pipe.down, &mut sent, usize::MAX).unwrap();
            pipe.up.extend(send(0, sent));
            let mut sent = vec![];
            turn(&mut pipe.server, &mut pipe.up, &mut sent, usize::MAX).unwrap();
            pipe.down.extend(send(1, sent));
            if status == Status::Idle && pipe.up.is_empty() {
                return;
            }
        }
    };
    let mut answers = Sha256::new();
    for count in [count, 1] {
        pipe.client.prepare(count).unwrap();
        run(&mut pipe);
        let input: Vec<i32> = (0..client.inputs() as i32).map(|i| (i * 37 + count as i32 * 11) % 129 - 64).collect();
        pipe.client.infer(pipe.client.bundles()[0], &input).unwrap();
        run(&mut pipe);
        pipe.client.output().unwrap().iter().for_each(|value| answers.update(value.to_le_bytes()));
    }
    pipe.client.close().unwrap();
    run(&mut pipe);
    let [up, down] = hashes.map(hex);
    format!("{} bytes {up} up, {} bytes {down} down, {} answers", bytes[0], bytes[1], hex(answers))
}

fn hex(hash: Sha256) -> String {
    hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Convolution, pooling and dense layers with every kind of channel.
#[test]
fn what_every_kind_of_channel_sends_is_the_known_answer() {
    let file = network(&mut Prg::new(&Seed::from_bytes([9; 32])));
    let expected = "1010189 bytes 929ae1cf92f3738cb56d4b4dfe5d2f14 up, \
                    510286 bytes 7af5956b0ec49f767043b9d460f7ee0c down, \
                    d5f1acf98507dd0c5d1bb0f3e6360018 answers";
    assert_eq!(transcript(&file, Extension::SoftSpoken(Depth::Four), RoundTrips::Three, 2), expected);
}

#[test]
fn what_relus_in_two_round_trips_send_is_the_known_answer() {
    let file = network(&mut Prg::new(&Seed::from_bytes([9; 32])));
    let expected = "740205 bytes 7df160e9cdd7f3c94435fd9e20b359ee up, \
                    370975 bytes eb5c50f04f5f5e8342b0791adef8fcfb down, \
                    d08ba5b3db835b56335bb926b1ac3a8f answers";
    assert_eq!(transcript(&file, Extension::SoftSpoken(Depth::Two), RoundTrips::Two, 1), expected);
}

/// As many inferences as it takes for the silent extension to begin.
#[test]
fn what_the_silent_extension_sends_is_the_known_answer() {
    let file = network(&mut Prg::new(&Seed::from_bytes([9; 32])));
    let expected = "14038805 bytes d98b09d7fa3c73faa99ee1bd1881031e up, \
                    8002766 bytes 4427f003f1ed079938efb99f1f550ef7 down, \
                    7a9b093271c387cdf00ce3403aa62b75 answers";
    assert_eq!(transcript(&file, Extension::Silent, RoundTrips::Three, 50), expected);
}

/// Sums, grouped and dilated convolutions, maxima, a class for an answer.
#[test]
fn what_a_residual_network_sends_is_the_known_answer() {
    let file = graphs::residual(&mut Prg::new(&Seed::from_bytes([10; 32])));
    let expected = "362455 bytes ccb0318573f78add394e3f44d8ccf935 up, \
                    124233 bytes 5f477795546754268062298c3104d2be down, \
                    e9df05a92c81ba8c658580c9e792e455 answers";
    assert_eq!(transcript(&file, Extension::SoftSpoken(Depth::Eight), RoundTrips::Three, 1), expected);
}
