//! Every byte that two parties exchange, as a known answer: it depends on their seeds alone, not on the machine's byte order, word
//! size or vectors, nor on how the library was built.

use super::{Pipe, graphs, network, turn};
use crate::model::ModelFile;
use crate::ot::softspoken::Depth;
use crate::ot::{Extension, Suite};
use crate::prg::{Prg, Seed};
use crate::session::{Client, ClientModel, Options, Portions, RoundTrips, Server, ServerModel, Status};
use alloc::{format, string::String, vec, vec::Vec};
use sha2::{Digest, Sha256};

/// What each machine would choose for itself is chosen here.
fn options(extension: Extension, suite: Suite) -> Options {
    Options { extension, suite, ..Options::default() }
}

/// Runs a session that prepares `count` inferences and then one, and does one each time, or if it is none does two in a stream; the bytes and
/// half a hash of each direction, and half a hash of the answers.
fn transcript(file: &ModelFile, options: Options, count: u32) -> String {
    let client = ClientModel::read(&file.public_bytes().unwrap()).unwrap();
    let server = ServerModel::read(&file.server_bytes().unwrap()).unwrap();
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
    for count in [count, count.min(1)] {
        let input: Vec<i32> = (0..client.inputs() as i32).map(|i| (i * 37 + count as i32 * 11) % 129 - 64).collect();
        if count == 0 {
            pipe.client.stream(&input).unwrap();
        } else {
            pipe.client.prepare(count).unwrap();
            run(&mut pipe);
            pipe.client.infer(pipe.client.bundles()[0], &input).unwrap();
        }
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
    let expected = "1010194 bytes 2e195512e51c8d0a93af58e88f468c2c up, \
                    510286 bytes 36c3b6cdc896636fa96fd98a1378f474 down, \
                    5adc9c3c1dd2e7fa126ef724de3ef7ba answers";
    assert_eq!(transcript(&file, options(Extension::SoftSpoken(Depth::Four), Suite::Aes), 2), expected);
}

#[test]
fn what_relus_in_two_round_trips_send_is_the_known_answer() {
    let file = network(&mut Prg::new(&Seed::from_bytes([9; 32])));
    let expected = "740210 bytes 46cfb71c929328e49c7822926eaf653c up, \
                    370975 bytes fb98b90754b7bbbf26c35dd574bc6bfe down, \
                    251a7fc87873ca2b0fac99f4d0d1a0a7 answers";
    let options = options(Extension::SoftSpoken(Depth::Two), Suite::ChaCha);
    assert_eq!(transcript(&file, Options { round_trips: RoundTrips::Two, ..options }, 1), expected);
}

/// As many inferences as it takes for the silent extension to begin.
#[cfg(feature = "silent")]
#[test]
fn what_the_silent_extension_sends_is_the_known_answer() {
    let file = network(&mut Prg::new(&Seed::from_bytes([9; 32])));
    let expected = "14038810 bytes 8656b7db45b5df307ef9ff7850dd3f2b up, \
                    8002766 bytes 284bc6a8bdd645d9c5e7b3d6e7a67603 down, \
                    c50ddfec83907f44356f4ba2a131bf8a answers";
    assert_eq!(transcript(&file, options(Extension::Silent, Suite::Aes), 50), expected);
}

/// Part by part.
#[test]
fn what_a_stream_sends_is_the_known_answer() {
    let file = network(&mut Prg::new(&Seed::from_bytes([9; 32])));
    let expected = "741306 bytes 55f746ecfaa0a38f2884e2934490bd8a up, \
                    344783 bytes 5b9eeb7fe3fe2035fb2a264229ca396d down, \
                    9f7cbbdcfb615e28eb52a2ceb04ef710 answers";
    let options = options(Extension::SoftSpoken(Depth::Four), Suite::ChaCha);
    let portions = Portions { chunk: 128, part: 256 };
    assert_eq!(transcript(&file, Options { portions, ..options }, 0), expected);
}

/// Sums, grouped and dilated convolutions, maxima, a class for an answer.
#[test]
fn what_a_residual_network_sends_is_the_known_answer() {
    let file = graphs::residual(&mut Prg::new(&Seed::from_bytes([10; 32])));
    let expected = "362460 bytes 1566a039dc0103b827747f6fcdd34581 up, \
                    124233 bytes 5f477795546754268062298c3104d2be down, \
                    e9df05a92c81ba8c658580c9e792e455 answers";
    assert_eq!(transcript(&file, options(Extension::SoftSpoken(Depth::Eight), Suite::Aes), 1), expected);
}
