use super::super::base::{BaseSender, base_receive};
use super::super::{Block, Bytes, Context, Delta, Direction, Suite, test_context, xor_into};
use super::forest::{CHUNK, Forest, STRIPE, Scratch, for_each_group, row_block};
use super::*;
use crate::prg::{Prg, Seed};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

const DEPTHS: [Depth; 3] = [Depth::Two, Depth::Four, Depth::Eight];

/// Each depth with each suite.
fn kinds() -> impl Iterator<Item = (Depth, Context)> {
    let context = |suite| Context { suite, ..test_context(Direction::ServerReceives) };
    DEPTHS.into_iter().flat_map(move |depth| [Suite::Aes, Suite::ChaCha].map(|suite| (depth, context(suite))))
}

fn prg(n: u8) -> Prg {
    Prg::new(&Seed::from_bytes([n; 32]))
}

/// SHA-256 of some bytes, in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Both parties after a real setup.
fn pair((depth, context): (Depth, Context), seed: u8) -> (RotReceiver, RotSender) {
    let mut delta: Delta = vec![0; context.direction.base_ots() / 8].into();
    prg(seed).fill(&mut delta);
    let (sender, message) = BaseSender::new(&context, &mut prg(seed + 1));
    let (reply, chosen) = base_receive(&context, &delta, &message, &mut prg(seed + 2)).unwrap();
    let (receiver, corrections) = RotReceiver::setup(&context, depth, sender.finish(&reply).unwrap());
    assert_eq!(corrections.len(), setup_bytes(context.direction, depth));
    (receiver, RotSender::setup(&context, depth, delta, chosen, &corrections).unwrap())
}

#[test]
fn the_receiver_gets_the_chosen_key_of_each_ot_and_choices_are_balanced() {
    for (depth, context) in kinds() {
        let (mut receiver, mut sender) = pair((depth, context), 1);
        let (mut ones, mut total) = (0, 0);
        let mut seen = Vec::new();
        for count in [128, 0, 512, 128 * CHUNK, 128 * CHUNK + 128, 128 * 77] {
            let (message, got) = receiver.extend(count).unwrap();
            assert_eq!(message.len(), extension_bytes(depth, count));
            let keys = sender.extend(count, &message).unwrap();
            assert_eq!((keys.len(), got.keys.len(), got.choices.len()), (count, count, count / 8));
            for (j, (pair, key)) in keys.iter().zip(got.keys.iter()).enumerate() {
                let c = got.choice_bits(j, 1) as usize;
                assert_eq!(*key, pair[c], "{depth:?} {count} {j}");
                assert_ne!(*key, pair[1 - c], "{depth:?} {count} {j}");
                ones += c;
            }
            total += count;
            seen.extend(keys.iter().flatten().copied());
        }
        // Six standard deviations.
        let deviation = (ones as f64 - total as f64 / 2.0).abs() / (total as f64 / 4.0).sqrt();
        assert!(deviation < 6.0, "{depth:?} {ones} of {total}");
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 2 * total);
    }
}

type Known = [(Depth, [&'static str; 4]); 3];

/// The answers of both suites, with their contexts.
fn both(aes: Known, chacha: Known) -> impl Iterator<Item = (Depth, Context, [&'static str; 4])> {
    let of = |suite, known: Known| {
        let context = Context { suite, ..test_context(Direction::ServerReceives) };
        known.into_iter().map(move |(depth, expected)| (depth, context, expected))
    };
    of(Suite::Aes, aes).chain(of(Suite::ChaCha, chacha))
}

#[test]
fn messages_choices_and_keys_are_the_known_answers() {
    // From tests/known-answers/ot.py, by the naive sums: SHA-256 of corrections, message, choices and keys of 640 OTs.
    let aes = [
        (
            Depth::Two,
            [
                "65b6df0d98e85e3a621ad9c8b916b33633808916963336b9ca550913818de8aa",
                "37a8574369dc0848e58afe239f4290a93642e11929b97fc852127c1098d0a68f",
                "6e93316ea56ff3b6e9c884adeafee22cad99d1451257235a3a6e0d1a448a4890",
                "eb3a1926543a4555789f97fa4cf8e39ee4a8b68d13b399f1c8be8ff2304d830f",
            ],
        ),
        (
            Depth::Four,
            [
                "4e6f8adc980e14b9cbb22692b62562912395f611593cd777d37e9710157675ee",
                "3aa38bfea9dd9131c46d57ed2daf5d14f815746305fbe08d8704308f5c5aae15",
                "4b031fec80ff2b5def3de9905dc6d75140f15026466eacd7d65aacad10511372",
                "bd7f9e3ab0992160dfc48326b55ecf14a89868ee9971453178c91bbcf4dac817",
            ],
        ),
        (
            Depth::Eight,
            [
                "95ca4fcede815f0857d9af1b7a10d2bea934f83e687768979e3cd02105d55515",
                "60ac1fa334eef8651396e436e74f4dbd166bf4f2972520d3b9b415f8774667b6",
                "d69701e9ffc3f2f82337a792a6c16997387d5e7475ebcc82e8a4f35658b0494e",
                "110382d54fcdb8350f3825cabd4412f9741e84a6d9f697c5f44258a388491afc",
            ],
        ),
    ];
    let chacha = [
        (
            Depth::Two,
            [
                "f0e60ab664d2e5cab3bce05be33e464345c160965c9870caf71f28a8e8fda860",
                "178b5ee1c1f61a059d1bbb10c7653a8f2dcb097a2d970b8b04fda7d6cbe11723",
                "e49449efa55a6c94fae67a443b2c4ea41493d4256e88b9c5ef348403fd2db904",
                "6f1e50a306ab4fac343d722460eaa8356fecc8ebd3de505df738f3edfdb39e7a",
            ],
        ),
        (
            Depth::Four,
            [
                "bb319dc8a89159547ae387668ab94b20c6a488750da9d9ae53575624678bb68c",
                "7b6b78f906d161341b8855bfa0197a1498b31e7b5215d758d8cdce7ed96f1923",
                "15ba1d9afc7f07b6f65f2d2f3578d89c6cb4a77de7b1a2bb07a843ed5dbe3869",
                "636def4aaee38ef9bfc617b80d04baefd4fb4d00f46c6cd126b1e26ae6a5960e",
            ],
        ),
        (
            Depth::Eight,
            [
                "c92579f8a52e0937f01ebe03cf50cfe6eef463d52ad6378a72b8e3638c96893f",
                "df8ca0924405ca0497402080c96f579ce29e272b50f33e8e0151074474905638",
                "34725da3ddb43c16c6e76a74d7dccd3355f28ca1d9f1d3fc27a644d4e28d731e",
                "6a03a709383dec5e377e89532dedc6cf13f865e363d45c4d15a2074aba1bbf39",
            ],
        ),
    ];
    for (depth, context, expected) in both(aes, chacha) {
        let key = |i| [0, 1].map(|b| Block::from_le_bytes([2 * i + b; 16]));
        let base_keys: Vec<[Block; 2]> = (0..ROW_BITS as u8).map(key).collect();
        let (mut receiver, corrections) = RotReceiver::setup(&context, depth, Zeroizing::new(base_keys));
        let (message, got) = receiver.extend(640).unwrap();
        let keys: Vec<u8> = got.keys.iter().flat_map(|key| key.to_le_bytes()).collect();
        for (bytes, expected) in [&corrections, &message, &*got.choices, &keys].into_iter().zip(expected) {
            assert_eq!(hex(bytes), expected, "{depth:?}");
        }
    }
}

#[test]
fn messages_indices_and_keys_of_wide_ots_are_the_known_answers() {
    // From tests/known-answers/ot.py: SHA-256 of corrections, message, indices and keys of 384 wide OTs.
    let aes = [
        (
            Depth::Two,
            [
                "f91554c898eb9c0aa7e13b8ec03e97d73632ce1f033381e095b806a5f024f96d",
                "366355513c7821db585c410545d206fc94cc6a0f504fdc901a0daf6ed0a0d28e",
                "5eea2717f9c6b7d5e76484c8b1ceaff02f0f587dfa50ea5ffb58f82fcb8ef6ac",
                "c66f5276f7561cbb26b512a9375b0bc00e5f458ec50d877128b9bd9a87dfe79f",
            ],
        ),
        (
            Depth::Four,
            [
                "92749d09421b5a882eb7edd9d7321e991124edcbf30a00691a66e0bf2534fa40",
                "abaedec94f9e8a904a8a1d43183c93f35f2bb5382525f231ef506bde1eb3dcd6",
                "f8daae300766655180f6a3738901f32ece9acc492f897e53f7df6925e0ab86d6",
                "3404819df32705964904e201fa17614a59945d40d63d7b5f654042841c3e70ae",
            ],
        ),
        (
            Depth::Eight,
            [
                "c2635225c68268633a0635efc86c2ec8ba907557e61b41bff0e4ac1e8a2f8e8d",
                "186466625604eb44caedb23c42c13e7917105599f290c51c73ee79d7e4bc92a7",
                "b651de3c6845090ee7e74f32e6756b74390ac62a2a290a67e187cd579c17a919",
                "de91606c96a403815f07106dd4fc7df7ea7289a71ce2495f9b30b1a765881b69",
            ],
        ),
    ];
    let chacha = [
        (
            Depth::Two,
            [
                "b3c56ae0167b1a672470b88c73178c1adaf7f56dc78a764c0dc6b1c164646825",
                "e215d20a018da61dc35f2a022b14b38b651689d0072c6451fc59cb649c90eba3",
                "eeea92b2e3da55a5c906f15c171f8fc99a69a302c81773b5820e523627066e8c",
                "3ef9fb7afb3d286181b99680499e6559dd5964027298500201d7ecbd0fa29cb4",
            ],
        ),
        (
            Depth::Four,
            [
                "3a8b5143a476f3b49ede4ccc465829421667709391add4ce467406271b4bd494",
                "75da1339256e34e511fe04a1cae738b38af4507575669fcd6209b188ca5debfd",
                "83522ae68d5e5ee61cb97b9f8928508058fecff3830c05c0667cdfb9a8070c24",
                "fd626df176c8a278c58ff2467ff166192a8d1533cf57fc2f670d1073791b71c0",
            ],
        ),
        (
            Depth::Eight,
            [
                "3a400f2de82013d02ac36cd0c1d0a6ec16368352a7b45a27357018710159aac9",
                "5cf5165407738bd148a8e31f38949260363cc6f09d6a4bb55644c25424d2451b",
                "08789b50bad7ec490da166b436b7c3ac505075d8ba6a489807aace0c9a34127e",
                "661b7f24c1094ac869e166bd1987312484f28612ff1a933f213ee7d4212409b6",
            ],
        ),
    ];
    for (depth, context, expected) in both(aes, chacha) {
        let key = |i: u16| [0, 1].map(|b| Block::from(2 * i + b) * 0x0001_0001_0001_0001_0001_0001_0001_0001);
        let base_keys: Vec<[Block; 2]> = (0..248).map(key).collect();
        let (mut receiver, corrections) = RotReceiver::setup(&context, depth, Zeroizing::new(base_keys));
        let (message, got) = receiver.extend_wide(384).unwrap();
        let keys = wide::tests::chosen_keys(&got);
        for (bytes, expected) in [&corrections, &message, got.indices(), &keys].into_iter().zip(expected) {
            assert_eq!(hex(bytes), expected, "{depth:?}");
        }
    }
}

#[test]
fn how_ots_are_divided_among_calls_changes_nothing() {
    for (depth, context) in kinds() {
        let (mut whole, mut sender) = pair((depth, context), 1);
        let (mut parts, _) = pair((depth, context), 1);
        let (message, got) = whole.extend(1280).unwrap();
        let (mut messages, mut choices, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for count in [128, 640, 512] {
            let (message, got) = parts.extend(count).unwrap();
            messages.extend_from_slice(&message);
            choices.extend_from_slice(&got.choices);
            keys.extend_from_slice(&got.keys);
        }
        assert_eq!(messages, message);
        assert_eq!((&choices, &keys), (&*got.choices, &*got.keys));
        let cut = extension_bytes(depth, 384);
        let first = sender.extend(384, &message[..cut]).unwrap();
        let second = sender.extend(896, &message[cut..]).unwrap();
        for (j, (pair, key)) in first.iter().chain(second.iter()).zip(&keys).enumerate() {
            assert_eq!(pair[got.choice_bits(j, 1) as usize], *key);
        }
    }
}

#[test]
fn counts_and_messages_of_wrong_length_are_refused_and_change_nothing() {
    for (depth, context) in kinds() {
        let right = setup_bytes(context.direction, depth);
        for length in [0, right - 1, right + 1] {
            let keys = Zeroizing::new(vec![0; context.direction.base_ots()]);
            let setup = RotSender::setup(&context, depth, vec![0; 31].into(), keys, &vec![0; length]);
            assert_eq!(setup.err().unwrap().kind(), ErrorKind::MalformedMessage);
        }
        let (mut receiver, mut sender) = pair((depth, context), 1);
        assert_eq!(receiver.extend(100).err().unwrap().kind(), ErrorKind::InvalidArgument);
        let (message, got) = receiver.extend(256).unwrap();
        assert_eq!(sender.extend(100, &message).err().unwrap().kind(), ErrorKind::InvalidArgument);
        for length in [0, message.len() - 1, message.len() + 1] {
            let mut message = message.clone();
            message.resize(length, 0);
            assert_eq!(sender.extend(256, &message).err().unwrap().kind(), ErrorKind::MalformedMessage);
        }
        let keys = sender.extend(256, &message).unwrap();
        assert_eq!(keys[255][got.choice_bits(255, 1) as usize], got.keys[255]);
    }
    for k in [0, 1, 3, 5, 16, 128] {
        assert!(Depth::new(k).is_err());
    }
}

#[test]
fn columns_are_the_naive_weighted_sums() {
    for (depth, context) in kinds() {
        let (k, groups) = (depth.bits(), 3);
        for first in [0, 1] {
            let mut forest = Forest::new(&context, depth, first);
            let mut random = prg(9);
            for _ in 0..2 {
                forest.add_tree(&(0..1 << k).map(|_| Block::from_le_bytes(random.array())).collect::<Vec<_>>());
            }
            forest.group = 40;
            let mut columns = vec![[0xaa; 16]; k * groups];
            let mut scratch = Scratch::new(depth, groups + 2);
            forest.fold(1, &mut columns, &mut scratch);
            let mut counters = vec![[0; 16]; groups];
            forest.leaves.count(forest.group, &mut counters);
            let mut expected = vec![[0; 16]; k * groups];
            let mut total = vec![[0; 16]; groups];
            for x in first..1 << k {
                let mut lane = vec![[0; 16]; groups];
                forest.leaves.expand((1 << k) + x, forest.group, &counters, &mut lane);
                xor_into(&mut total, &lane);
                for b in 0..k {
                    if x >> b & 1 == 1 {
                        xor_into(&mut expected[b * groups..][..groups], &lane);
                    }
                }
            }
            assert_eq!(columns, expected);
            assert_eq!(scratch.total()[..groups], total);
        }
    }
}

#[test]
fn rows_are_those_of_the_bit_matrix() {
    for groups in [1, 4, 6] {
        let mut random = prg(11);
        let columns: Vec<Bytes> = (0..ROW_BITS * groups).map(|_| random.array()).collect();
        let mut visited = 0;
        for_each_group(&columns, &mut [[[0; 2]; 128]; STRIPE], |n, rows| {
            assert_eq!(n, visited);
            visited += 1;
            for (j, row) in rows.iter().enumerate() {
                for c in 0..ROW_BITS {
                    let expected = columns[c * groups + n][j / 8] >> (j % 8) & 1;
                    assert_eq!((row_block(row) >> c & 1) as u8, expected);
                }
            }
        });
        assert_eq!(visited, groups);
    }
}

#[test]
fn choice_bits_reads_across_bytes_and_past_the_end() {
    let batch = RotBatchReceived {
        choices: Zeroizing::new(vec![0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc]),
        keys: Zeroizing::new(Vec::new()),
    };
    assert_eq!(batch.choice_bits(0, 8), 0x12);
    assert_eq!(batch.choice_bits(4, 12), 0x341);
    assert_eq!(batch.choice_bits(7, 32), ((0xbc9a_7856_3412u64 >> 7) & 0xffff_ffff) as u32);
    assert_eq!(batch.choice_bits(44, 32), 0xb);
    assert_eq!(batch.choice_bits(1000, 32), 0);
}
