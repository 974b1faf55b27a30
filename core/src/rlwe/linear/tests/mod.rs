mod known;
mod responder;

use super::*;
use crate::prg::Prg;
use crate::prg::Seed;
use crate::rlwe::keys::PublicKey;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

fn prg(seed: u64) -> Prg {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    Prg::new(&Seed::from_bytes(bytes))
}

fn square(channels: usize, size: usize, out: usize, kernel: usize, stride: usize, pad: usize) -> ConvShape {
    ConvShape {
        in_channels: channels,
        in_height: size,
        in_width: size,
        out_channels: out,
        groups: 1,
        kernel_height: kernel,
        kernel_width: kernel,
        dilation_height: 1,
        dilation_width: 1,
        stride_height: stride,
        stride_width: stride,
        pad_top: pad,
        pad_left: pad,
        pad_bottom: pad,
        pad_right: pad,
        word_bits: 32,
    }
}

/// The packing whose strides stay together.
fn cut(shape: &ConvShape, tile: [usize; 2], inputs: usize, outputs: usize) -> Result<LinearPacking> {
    LinearPacking::new(shape, Layout { tile, apart: [false, false], inputs, outputs })
}

/// As many groups as channels.
fn depthwise(channels: usize, size: usize, kernel: usize, stride: usize, pad: usize) -> ConvShape {
    ConvShape { groups: channels, ..square(channels, size, channels, kernel, stride, pad) }
}

/// The convolution by its definition, modulo 2^32.
fn convolve(shape: &ConvShape, weights: &[i16], x: &[u32]) -> Vec<u32> {
    let s = shape;
    let windows = |padded: usize, kernel: usize, dilation: usize, stride: usize| {
        (0..).take_while(|i| i * stride + (kernel - 1) * dilation < padded).count()
    };
    let out_height =
        windows(s.in_height + s.pad_top + s.pad_bottom, s.kernel_height, s.dilation_height, s.stride_height);
    let out_width = windows(s.in_width + s.pad_left + s.pad_right, s.kernel_width, s.dilation_width, s.stride_width);
    let (group_in, group_out) = (s.in_channels / s.groups, s.out_channels / s.groups);
    let mut out = Vec::new();
    for o in 0..s.out_channels {
        for i in 0..out_height {
            for j in 0..out_width {
                let mut sum = 0u32;
                for c in 0..group_in {
                    for kh in 0..s.kernel_height {
                        for kw in 0..s.kernel_width {
                            let y = (i * s.stride_height + kh * s.dilation_height).wrapping_sub(s.pad_top);
                            let z = (j * s.stride_width + kw * s.dilation_width).wrapping_sub(s.pad_left);
                            if y < s.in_height && z < s.in_width {
                                let w = weights[((o * group_in + c) * s.kernel_height + kh) * s.kernel_width + kw];
                                let channel = o / group_out * group_in + c;
                                let x = x[(channel * s.in_height + y) * s.in_width + z];
                                sum = sum.wrapping_add((w as u32).wrapping_mul(x));
                            }
                        }
                    }
                }
                out.push(sum);
            }
        }
    }
    out
}

/// The packing's way: polynomial products modulo X^N + 1 over Z_2^32, in the clear.
///
/// Every input of a part of channels is in some request, every output in one answer, every weight in one polynomial, and no coefficient is
/// taken twice.
fn convolve_packed(packing: &LinearPacking, weights: &[i16], x: &[u32]) -> Vec<u32> {
    let n = LINEAR.degree();
    let mut out = vec![None; packing.outputs()];
    let mut used = vec![0; packing.weights()];
    for j in 0..packing.response_ciphertexts() {
        let (part, tile) = (j / packing.tiles(), j % packing.tiles());
        let mut product = vec![0u32; n];
        for input_part in packing.input_parts(part) {
            let mut taken = vec![false; n];
            let inputs: Vec<_> = packing
                .input_runs(input_part * packing.tiles() + tile)
                .flat_map(|run| run.places.clone().zip(run.inputs()))
                .collect();
            for &(place, _) in &inputs {
                assert!(!core::mem::replace(&mut taken[place], true));
            }
            taken.fill(false);
            let mut filled = vec![7; n];
            packing.fill_weights(&packing.taps(), [input_part, part], weights, &mut filled);
            for (place, number) in packing.weight_places(input_part, part) {
                assert_eq!(core::mem::take(&mut filled[place]), weights[number]);
                assert!(!core::mem::replace(&mut taken[place], true));
                used[number] += usize::from(tile == 0);
                for &(input_place, input) in &inputs {
                    let term = (weights[number] as u32).wrapping_mul(x[input]);
                    let at = place + input_place;
                    let sum = &mut product[at % n];
                    *sum = if at < n { sum.wrapping_add(term) } else { sum.wrapping_sub(term) };
                }
            }
            assert!(filled.iter().all(|&x| x == 0));
        }
        assert_eq!(packing.response_outputs(j).count(), packing.response_outputs_count(j));
        assert_eq!(packing.output_places(j).count(), packing.response_outputs_count(j));
        for (place, output) in packing.output_places(j).zip(packing.response_outputs(j)) {
            assert!(out[output].replace(product[place]).is_none());
        }
    }
    assert!(used.iter().all(|&times| times == 1));
    out.into_iter().map(|y| y.unwrap()).collect()
}

/// A request of a layer without fresh channels.
fn bound_request(key: &SecretKey, packing: &LinearPacking, x: &[u32], index: usize, prg: &mut Prg) -> Result<Vec<u8>> {
    encrypt_request(key, packing, &[], &mut x.to_vec(), index, prg)
}

/// A layer through encryption, with some channels of x fresh: the server's s and the client's m.
fn run(packing: &LinearPacking, weights: &[i16], x: &mut [u32], prg: &mut Prg) -> (Vec<u32>, Vec<u32>) {
    let fresh: Vec<bool> = (0..packing.shape().in_channels).map(|_| prg.below(3) > 0).collect();
    let key = SecretKey::generate(&LINEAR, prg);
    let public = PublicKey::from_bytes(&LINEAR, &key.public_key(prg)).unwrap();
    let weights = LinearWeights::new(packing, weights, Keep::Transformed).unwrap();
    let requests =
        (0..packing.request_ciphertexts()).map(|i| encrypt_request(&key, packing, &fresh, x, i, prg).unwrap());
    let requests: Vec<_> = requests.collect();
    let mut responder = LinearResponder::new(&weights, &fresh);
    for (i, request) in requests.iter().enumerate().rev() {
        assert_eq!(request.len(), packing.request_bytes(i, &fresh));
        responder.absorb(i, request).unwrap();
    }
    let (mut s, mut m) = (vec![0; packing.outputs()], vec![0; packing.outputs()]);
    for j in 0..packing.response_ciphertexts() {
        let response = responder.respond(j, &public, prg, &mut s).unwrap();
        assert_eq!(response.len(), packing.response_bytes(j));
        decrypt_response(&key, packing, j, &response, &mut m).unwrap();
    }
    (s, m)
}

fn random_words(count: usize, prg: &mut Prg) -> Vec<u32> {
    (0..count).map(|_| prg.next_u32()).collect()
}

fn random_weights(count: usize, most: i16, prg: &mut Prg) -> Vec<i16> {
    (0..count).map(|_| prg.below(2 * most as u64 + 1) as i16 - most).collect()
}

/// A shape of at most 25 channels, and a layout, which need not fit.
fn shapes() -> impl Strategy<Value = (ConvShape, Layout)> {
    let channels = (1usize..4, 1usize..6, 1usize..6).prop_map(|(groups, i, o)| (groups, groups * i, groups * o));
    let depthwise = (1usize..14).prop_map(|channels| (channels, channels, channels));
    let dense = (1usize..14, 1usize..14).prop_map(|(i, o)| (1, i, o));
    let axis = (1usize..24, 1usize..6, 1usize..4, 1usize..5, 0usize..4, 0usize..4, 1usize..9).prop_map(
        |(length, kernel, dilation, stride, before, after, tile)| {
            let fitting = (length + before + after - 1) / dilation + 1;
            (length, kernel.min(fitting), dilation, stride, before, after, tile)
        },
    );
    let apart = prop::array::uniform2(any::<bool>());
    (prop_oneof![channels, depthwise, dense], axis.clone(), axis, apart, 1usize..16, 1usize..16, MIN_WORD_BITS..=32)
        .prop_map(|((groups, in_channels, out_channels), rows, columns, apart, inputs, outputs, word_bits)| {
            let shape = ConvShape {
                in_channels,
                in_height: rows.0,
                in_width: columns.0,
                out_channels,
                groups,
                kernel_height: rows.1,
                kernel_width: columns.1,
                dilation_height: rows.2,
                dilation_width: columns.2,
                stride_height: rows.3,
                stride_width: columns.3,
                pad_top: rows.4,
                pad_left: columns.4,
                pad_bottom: rows.5,
                pad_right: columns.5,
                word_bits,
            };
            let planes = |stride: usize, apart, kernel: usize| if apart { stride.min(kernel) } else { 1 };
            // At least as many as there are, fewer where dilations share a divisor with strides.
            let most = in_channels * planes(rows.3, apart[0], rows.1) * planes(columns.3, apart[1], columns.1);
            let (inputs, outputs) = (inputs.min(most), outputs.min(out_channels));
            (shape, Layout { tile: [rows.6, columns.6], apart, inputs, outputs })
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn packed_convolutions_are_convolutions((shape, layout) in shapes(), seed: u64) {
        let mut prg = prg(seed);
        let chosen = LinearPacking::choose(&shape).unwrap();
        let weights = random_weights(chosen.weights(), 255, &mut prg);
        let x = random_words(chosen.inputs(), &mut prg);
        let expected = convolve(&shape, &weights, &x);
        prop_assert_eq!(&convolve_packed(&chosen, &weights, &x), &expected);
        let tile = layout.tile;
        for tile in [tile, [tile[0], usize::MAX], [usize::MAX, tile[1]], [usize::MAX; 2]] {
            if let Ok(packing) = LinearPacking::new(&shape, Layout { tile, ..layout }) {
                prop_assert_eq!(&convolve_packed(&packing, &weights, &x), &expected);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(25))]
    #[test]
    fn encrypted_layers_are_exact((shape, layout) in shapes(), seed: u64) {
        let mut prg = prg(seed);
        let given = LinearPacking::new(&shape, layout);
        let packing = given.or_else(|_| LinearPacking::choose(&shape)).unwrap();
        let weights = random_weights(packing.weights(), 100, &mut prg);
        let mut x = random_words(packing.inputs(), &mut prg);
        let (s, m) = run(&packing, &weights, &mut x, &mut prg);
        let keep = u32::MAX >> (32 - shape.word_bits);
        let sum = convolve(&shape, &weights, &x).iter().zip(&s).map(|(y, s)| y.wrapping_add(*s) & keep).collect::<Vec<_>>();
        prop_assert_eq!(m, sum);
    }
}

#[test]
fn the_chosen_packing_is_the_cheapest() {
    let total = |p: &LinearPacking| {
        let requests = p.request_ciphertexts() * p.request_bytes(0, &[]);
        (
            requests + (0..p.response_ciphertexts()).map(|j| p.response_bytes(j)).sum::<usize>(),
            p.weight_polynomials() * p.tiles() as u64,
        )
    };
    for shape in [
        square(64, 8, 64, 3, 1, 1),
        square(16, 32, 16, 3, 1, 1),
        square(20, 7, 9, 5, 2, 2),
        square(40, 1, 30, 1, 1, 0),
        ConvShape { groups: 4, ..square(20, 9, 12, 3, 1, 1) },
        depthwise(24, 14, 3, 1, 1),
        square(1, 60, 2, 3, 1, 0),
    ] {
        let chosen = LinearPacking::choose(&shape).unwrap();
        for inputs in 1..=shape.in_channels {
            for outputs in 1..=shape.out_channels {
                for tile in
                    (1..=8).flat_map(|height| (1..=8).map(move |width| [height, width])).chain([[usize::MAX; 2]])
                {
                    if let Ok(other) = cut(&shape, tile, inputs, outputs) {
                        assert!(total(&chosen) <= total(&other), "{chosen:?} {other:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_strided_pointwise_layer_packs_only_the_pixels_it_reads() {
    let packing = LinearPacking::choose(&square(16, 32, 32, 1, 2, 0)).unwrap();
    // 256 pixels of 1024: 16 channels to a ciphertext, not 4.
    assert_eq!(packing.inputs_per_request() * packing.outputs_per_response(), 16);
}

#[test]
fn shapes_that_are_none_or_do_not_fit_are_refused() {
    let kind = |shape: ConvShape| LinearPacking::choose(&shape).unwrap_err().kind();
    let good = square(3, 8, 4, 3, 1, 1);
    assert_eq!(kind(ConvShape { in_channels: 0, ..good }), ErrorKind::InvalidArgument);
    assert_eq!(kind(ConvShape { out_channels: 0, ..good }), ErrorKind::InvalidArgument);
    assert_eq!(kind(ConvShape { in_height: 0, ..good }), ErrorKind::InvalidArgument);
    assert_eq!(kind(ConvShape { kernel_width: 0, ..good }), ErrorKind::InvalidArgument);
    assert_eq!(kind(ConvShape { stride_width: 0, ..good }), ErrorKind::InvalidArgument);
    assert_eq!(kind(ConvShape { kernel_height: 11, ..good }), ErrorKind::InvalidArgument);
    assert_eq!(kind(ConvShape { pad_left: usize::MAX, ..good }), ErrorKind::InvalidArgument);
    assert_eq!(kind(ConvShape { in_channels: usize::MAX, ..good }), ErrorKind::InvalidArgument);
    assert_eq!(kind(ConvShape { in_channels: 1 << 20, out_channels: 1 << 20, ..good }), ErrorKind::InvalidArgument);
    assert_eq!(kind(ConvShape { dilation_height: 0, ..good }), ErrorKind::InvalidArgument);
    assert_eq!(kind(ConvShape { dilation_width: 5, ..good }), ErrorKind::InvalidArgument);
    assert_eq!(kind(ConvShape { dilation_width: usize::MAX, ..good }), ErrorKind::InvalidArgument);
    // Windows of all input channels: 2^10 · 2^11 · 2^11, though the image is a pixel each.
    let wide = ConvShape { pad_top: 1 << 11, pad_left: 1 << 11, ..square(1 << 10, 1, 1, 1, 1, 0) };
    assert_eq!(kind(wide), ErrorKind::InvalidArgument);
    for groups in [0, 2, 3, 4, usize::MAX] {
        assert_eq!(kind(ConvShape { groups, ..good }), ErrorKind::InvalidArgument, "{groups}");
    }
    for word_bits in [0, 15, 33, u32::MAX] {
        assert_eq!(kind(ConvShape { word_bits, ..good }), ErrorKind::InvalidArgument);
    }
    let error = LinearPacking::choose(&square(3, 65, 4, 65, 1, 0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedModel);
    assert!(error.message().contains("65 x 65 = 4225"), "{error}");
    for (inputs, outputs) in [(0, 1), (1, 0), (4, 1), (1, 5), (usize::MAX, 2)] {
        assert!(cut(&good, [8, 8], inputs, outputs).is_err());
    }
    assert!(cut(&good, [8, 8], 3, 4).is_ok());
    for tile in [[0, 8], [8, 0]] {
        assert!(cut(&good, tile, 1, 1).is_err());
    }
    let large = square(1, 80, 1, 3, 1, 1);
    assert!(cut(&large, [62, 62], 1, 1).is_ok());
    assert!(cut(&large, [62, 63], 1, 1).is_err());
}

#[test]
fn weights_beyond_the_budget_are_refused_with_numbers() {
    let shape = square(512, 1, 2, 3, 1, 1);
    let packing = cut(&shape, [usize::MAX; 2], 1, 1).unwrap();
    // 4608 inputs: 127 fits, 255 does not.
    let weights = |w: i16| vec![w; packing.weights()];
    let bound = linear_noise_bound(&packing, &weights(127)).unwrap();
    assert!(bound <= 1 << 18 && bound > 1 << 17, "{bound}");
    let refused = |w: &[i16]| LinearWeights::new(&packing, w, Keep::Transformed).err().unwrap();
    let error = refused(&weights(255));
    assert_eq!(error.kind(), ErrorKind::UnsupportedModel);
    assert!(error.message().contains("262144") && error.message().contains("450"), "{error}");
    let small = LinearPacking::choose(&square(1, 4, 1, 3, 1, 1)).unwrap();
    assert_eq!(
        LinearWeights::new(&small, &[256; 9], Keep::Transformed).err().unwrap().kind(),
        ErrorKind::UnsupportedModel
    );
    assert_eq!(
        LinearWeights::new(&small, &[i16::MIN; 9], Keep::Transformed).err().unwrap().kind(),
        ErrorKind::UnsupportedModel
    );
    assert_eq!(
        LinearWeights::new(&small, &[0; 8], Keep::Transformed).err().unwrap().kind(),
        ErrorKind::InvalidArgument
    );
    let weights = LinearWeights::new(&small, &[-255; 9], Keep::Transformed).unwrap();
    assert_eq!((weights.noise_bits(), weights.noise_bound()), (15, noise_of(9 * 255 * 255)));
}

#[test]
fn a_layer_too_noisy_for_its_cheapest_packing_gets_a_quieter_one() {
    let shape = square(64, 8, 64, 3, 1, 1);
    let cheapest = LinearPacking::choose(&shape).unwrap();
    let weights = alloc::vec![255; cheapest.weights()];
    assert!(LinearWeights::new(&cheapest, &weights, Keep::Transformed).is_err());
    let packing = choose_within_budget(&shape, &weights).unwrap();
    assert!(packing.outputs_per_response() < cheapest.outputs_per_response());
    let again = cut(&shape, [8, 8], packing.inputs_per_request(), packing.outputs_per_response()).unwrap();
    assert_eq!(again, packing);
    assert!(LinearWeights::new(&packing, &weights, Keep::Transformed).unwrap().noise_bits() <= 18);
    let quiet = random_weights(cheapest.weights(), 20, &mut prg(5));
    assert_eq!(choose_within_budget(&shape, &quiet).unwrap(), cheapest);
    let loud = vec![255; 2 * 512 * 9];
    let error = choose_within_budget(&square(512, 1, 2, 3, 1, 1), &loud).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedModel);
}

#[test]
fn prepared_weights_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<LinearWeights>();
    shared::<PublicKey>();
    shared::<SecretKey>();
    shared::<LinearResponder<'static>>();
}

#[test]
fn packings_that_fill_a_ciphertext_to_the_last_coefficient_are_convolutions() {
    // Places of a plane: 16 x 16, 8 x 8, 32 x 32, 64 x 64 and 16 x 16. What wraps around lands among the zeros behind the last row.
    for (shape, apart, inputs, outputs) in [
        (square(4, 15, 8, 3, 1, 1), false, 4, 4),
        (square(8, 7, 8, 3, 2, 1), false, 8, 8),
        (square(2, 30, 4, 5, 1, 2), false, 2, 2),
        (square(2, 61, 2, 7, 3, 3), false, 1, 1),
        // Of 16 rows of a plane, 14 hold pixels and 2 are the zeros on both sides.
        (square(2, 28, 8, 5, 2, 4), true, 4, 4),
    ] {
        let layout = Layout { tile: [usize::MAX; 2], apart: [apart; 2], inputs, outputs };
        let packing = LinearPacking::new(&shape, layout).unwrap();
        assert!(LinearPacking::new(&shape, Layout { inputs: 1, outputs: inputs * outputs + 1, ..layout }).is_err());
        let mut prg = prg(6);
        let weights = random_weights(packing.weights(), 255, &mut prg);
        let x = random_words(packing.inputs(), &mut prg);
        assert_eq!(convolve_packed(&packing, &weights, &x), convolve(&shape, &weights, &x), "{shape:?}");
    }
}

#[test]
fn the_noise_bound_counts_the_weights_of_an_answer_and_no_others() {
    let grouped = ConvShape { groups: 4, ..square(12, 9, 20, 3, 1, 1) };
    for (shape, tile, inputs, outputs) in [
        (square(5, 9, 7, 3, 2, 1), [2, 3], 2, 3),
        (grouped, [9, 9], 5, 6),
        (grouped, [4, 4], 7, 3),
        (depthwise(13, 9, 3, 1, 1), [9, 9], 4, 5),
    ] {
        let packing = cut(&shape, tile, inputs, outputs).unwrap();
        let weights = random_weights(packing.weights(), 255, &mut prg(13));
        let entering = |part: usize| {
            let places = packing.input_parts(part).flat_map(|i| packing.weight_places(i, part));
            places.map(|(_, number)| i64::from(weights[number]).pow(2) as u64).sum::<u64>()
        };
        let most = (0..packing.output_parts()).map(entering).max().unwrap();
        assert_eq!(linear_noise_bound(&packing, &weights).unwrap(), noise_of(most), "{shape:?}");
    }
}

fn noise_of(squares: u64) -> u64 {
    crate::rlwe::noise::bound(squares)
}

/// Every input that a request holds is brought by exactly one: the first that holds it. And each request holds it once at most.
#[test]
fn the_first_request_that_holds_an_input_brings_it() {
    let mut prg = prg(77);
    let mut tiled = 0;
    for _ in 0..400 {
        let mut below = |bound: u64| prg.below(bound) as usize;
        let shape = ConvShape {
            in_channels: 1 + below(3),
            in_height: 1 + below(30),
            in_width: 1 + below(30),
            kernel_height: 1 + below(4),
            kernel_width: 1 + below(4),
            dilation_height: 1 + below(3),
            dilation_width: 1 + below(3),
            stride_height: 1 + below(4),
            stride_width: 1 + below(4),
            pad_top: below(4),
            pad_left: below(4),
            pad_bottom: below(4),
            pad_right: below(4),
            ..square(1, 1, 1 + below(3), 1, 1, 0)
        };
        let tile = [1 + below(8), 1 + below(8)];
        let layout = Layout { tile, apart: [below(2) > 0, below(2) > 0], inputs: 1 + below(2), outputs: 1 };
        let Ok(packing) = LinearPacking::new(&shape, layout) else { continue };
        tiled += usize::from(packing.tiles() > 1);
        let fresh = vec![true; shape.in_channels];
        let mut brought = vec![false; packing.inputs()];
        for index in 0..packing.request_ciphertexts() {
            let mut here = vec![false; packing.inputs()];
            let first = packing.input_runs(index).filter(|run| run.is_fresh(&fresh)).flat_map(|run| run.inputs());
            first.for_each(|input| assert!(!core::mem::replace(&mut brought[input], true), "{shape:?}"));
            for input in packing.input_runs(index).flat_map(|run| run.inputs()) {
                assert!(brought[input] && !core::mem::replace(&mut here[input], true), "{shape:?}");
            }
        }
    }
    assert!(tiled > 100, "{tiled}");
}
