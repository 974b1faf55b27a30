use super::*;
use crate::prg::Seed;
use crate::rlwe::keys::PublicKey;
use alloc::vec;
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
        kernel_height: kernel,
        kernel_width: kernel,
        stride_height: stride,
        stride_width: stride,
        pad_top: pad,
        pad_left: pad,
        pad_bottom: pad,
        pad_right: pad,
    }
}

/// The convolution by its definition, modulo 2^32.
fn convolve(shape: &ConvShape, weights: &[i16], x: &[u32]) -> Vec<u32> {
    let s = shape;
    let out_height = (s.in_height + s.pad_top + s.pad_bottom - s.kernel_height) / s.stride_height + 1;
    let out_width = (s.in_width + s.pad_left + s.pad_right - s.kernel_width) / s.stride_width + 1;
    let mut out = Vec::new();
    for o in 0..s.out_channels {
        for i in 0..out_height {
            for j in 0..out_width {
                let mut sum = 0u32;
                for c in 0..s.in_channels {
                    for kh in 0..s.kernel_height {
                        for kw in 0..s.kernel_width {
                            let y = (i * s.stride_height + kh).wrapping_sub(s.pad_top);
                            let z = (j * s.stride_width + kw).wrapping_sub(s.pad_left);
                            if y < s.in_height && z < s.in_width {
                                let w = weights[((o * s.in_channels + c) * s.kernel_height + kh) * s.kernel_width + kw];
                                let x = x[(c * s.in_height + y) * s.in_width + z];
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
fn convolve_packed(packing: &LinearPacking, weights: &[i16], x: &[u32]) -> Vec<u32> {
    let n = LINEAR.degree();
    let mut out = Vec::new();
    for j in 0..packing.response_ciphertexts() {
        let mut product = vec![0u32; n];
        for i in 0..packing.request_ciphertexts() {
            let mut taken = vec![false; n];
            let inputs: Vec<_> = packing.input_places(i).collect();
            for &(place, _) in &inputs {
                assert!(!core::mem::replace(&mut taken[place], true));
            }
            taken.fill(false);
            for (place, number) in packing.weight_places(i, j) {
                assert!(!core::mem::replace(&mut taken[place], true));
                for &(input_place, input) in &inputs {
                    let term = (weights[number] as u32).wrapping_mul(x[input]);
                    let at = place + input_place;
                    let sum = &mut product[at % n];
                    *sum = if at < n { sum.wrapping_add(term) } else { sum.wrapping_sub(term) };
                }
            }
        }
        out.extend(packing.output_places(j).map(|place| product[place]));
    }
    out
}

/// A layer through encryption: the server's s and the client's m.
fn run(packing: &LinearPacking, weights: &[i16], x: &[u32], prg: &mut Prg) -> (Vec<u32>, Vec<u32>) {
    let key = SecretKey::generate(&LINEAR, prg);
    let public = PublicKey::from_bytes(&LINEAR, &key.public_key(prg)).unwrap();
    let weights = LinearWeights::new(packing, weights).unwrap();
    let mut responder = LinearResponder::new(&weights);
    for i in (0..packing.request_ciphertexts()).rev() {
        let request = encrypt_request(&key, packing, x, i, prg).unwrap();
        assert_eq!(request.len(), packing.request_bytes());
        responder.absorb(i, &request).unwrap();
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

prop_compose! {
    fn shapes()(
        size in prop::array::uniform2(1usize..12), kernel in prop::array::uniform2(1usize..6), stride in prop::array::uniform2(1usize..5),
        pads in prop::array::uniform4(0usize..4), channels in prop::array::uniform2(1usize..14),
    ) -> ConvShape {
        ConvShape {
            in_channels: channels[0], in_height: size[0], in_width: size[1], out_channels: channels[1],
            kernel_height: kernel[0].min(size[0] + pads[0] + pads[2]), kernel_width: kernel[1].min(size[1] + pads[1] + pads[3]),
            stride_height: stride[0], stride_width: stride[1],
            pad_top: pads[0], pad_left: pads[1], pad_bottom: pads[2], pad_right: pads[3],
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn packed_convolutions_are_convolutions(shape in shapes(), split in prop::array::uniform2(1usize..14), seed: u64) {
        let mut prg = prg(seed);
        let chosen = LinearPacking::choose(&shape).unwrap();
        let weights = random_weights(chosen.weights(), 255, &mut prg);
        let x = random_words(chosen.inputs(), &mut prg);
        let expected = convolve(&shape, &weights, &x);
        prop_assert_eq!(&convolve_packed(&chosen, &weights, &x), &expected);
        if let Ok(packing) = LinearPacking::new(&shape, split[0], split[1]) {
            prop_assert!(packing.request_ciphertexts() >= 1);
            prop_assert_eq!(convolve_packed(&packing, &weights, &x), expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(25))]
    #[test]
    fn encrypted_layers_are_exact(shape in shapes(), seed: u64) {
        let mut prg = prg(seed);
        let packing = LinearPacking::choose(&shape).unwrap();
        let weights = random_weights(packing.weights(), 100, &mut prg);
        let x = random_words(packing.inputs(), &mut prg);
        let (s, m) = run(&packing, &weights, &x, &mut prg);
        let sum: Vec<u32> = convolve(&shape, &weights, &x).iter().zip(&s).map(|(y, s)| y.wrapping_add(*s)).collect();
        prop_assert_eq!(m, sum);
    }
}

#[test]
fn layers_of_known_networks_are_exact() {
    let dense = ConvShape { kernel_height: 8, kernel_width: 8, ..square(64, 8, 10, 1, 1, 0) };
    let strided = ConvShape { pad_bottom: 0, pad_right: 0, ..square(16, 32, 32, 3, 2, 1) };
    for shape in [
        square(3, 32, 16, 3, 1, 1),
        strided,
        square(16, 32, 32, 1, 2, 0),
        dense,
        square(300, 1, 7, 1, 1, 0),
        square(1, 64, 1, 1, 1, 0),
    ] {
        let mut prg = prg(1);
        let packing = LinearPacking::choose(&shape).unwrap();
        for most in [127, 1] {
            let weights = random_weights(packing.weights(), most, &mut prg);
            let mut x = random_words(packing.inputs(), &mut prg);
            for (x, extreme) in x.iter_mut().zip([0, u32::MAX, 1 << 31, (1 << 31) - 1]) {
                *x = extreme;
            }
            let (s, m) = run(&packing, &weights, &x, &mut prg);
            let y = convolve(&shape, &weights, &x);
            assert!(m.iter().zip(&s).zip(&y).all(|((m, s), y)| *m == y.wrapping_add(*s)), "{shape:?}");
        }
    }
}

#[test]
fn the_chosen_packing_is_the_cheapest() {
    let total = |p: &LinearPacking| {
        let requests = p.request_ciphertexts() * p.request_bytes();
        (
            requests + (0..p.response_ciphertexts()).map(|j| p.response_bytes(j)).sum::<usize>(),
            p.request_ciphertexts() * p.response_ciphertexts(),
        )
    };
    for shape in
        [square(64, 8, 64, 3, 1, 1), square(16, 32, 16, 3, 1, 1), square(20, 7, 9, 5, 2, 2), square(40, 1, 30, 1, 1, 0)]
    {
        let chosen = LinearPacking::choose(&shape).unwrap();
        for inputs in 1..=shape.in_channels {
            for outputs in 1..=shape.out_channels {
                if let Ok(other) = LinearPacking::new(&shape, inputs, outputs) {
                    assert!(total(&chosen) <= total(&other), "{chosen:?} {other:?}");
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
    let error = LinearPacking::choose(&square(3, 64, 4, 3, 1, 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedModel);
    assert!(error.message().contains("65 x 65 = 4225"), "{error}");
    for (inputs, outputs) in [(0, 1), (1, 0), (4, 1), (1, 5), (usize::MAX, 2)] {
        assert!(LinearPacking::new(&good, inputs, outputs).is_err());
    }
}

#[test]
fn weights_beyond_the_budget_are_refused_with_numbers() {
    let shape = square(512, 1, 2, 3, 1, 1);
    let packing = LinearPacking::new(&shape, 1, 1).unwrap();
    // 4608 inputs: 127 fits, 255 does not.
    let weights = |w: i16| vec![w; packing.weights()];
    let bound = linear_noise_bound(&packing, &weights(127)).unwrap();
    assert!(bound <= 1 << 18 && bound > 1 << 17, "{bound}");
    let refused = |w: &[i16]| LinearWeights::new(&packing, w).err().unwrap();
    let error = refused(&weights(255));
    assert_eq!(error.kind(), ErrorKind::UnsupportedModel);
    assert!(error.message().contains("262144") && error.message().contains("450"), "{error}");
    let small = LinearPacking::choose(&square(1, 4, 1, 3, 1, 1)).unwrap();
    assert_eq!(LinearWeights::new(&small, &[256; 9]).err().unwrap().kind(), ErrorKind::UnsupportedModel);
    assert_eq!(LinearWeights::new(&small, &[i16::MIN; 9]).err().unwrap().kind(), ErrorKind::UnsupportedModel);
    assert_eq!(LinearWeights::new(&small, &[0; 8]).err().unwrap().kind(), ErrorKind::InvalidArgument);
    let weights = LinearWeights::new(&small, &[-255; 9]).unwrap();
    assert_eq!((weights.noise_bits(), weights.noise_bound()), (15, noise_of(9 * 255 * 255)));
}

#[test]
fn a_layer_too_noisy_for_its_cheapest_packing_gets_a_quieter_one() {
    let shape = square(64, 8, 64, 3, 1, 1);
    let cheapest = LinearPacking::choose(&shape).unwrap();
    let weights = alloc::vec![255; cheapest.weights()];
    assert!(LinearWeights::new(&cheapest, &weights).is_err());
    let packing = choose_within_budget(&shape, &weights).unwrap();
    assert!(packing.outputs_per_response() < cheapest.outputs_per_response());
    let again = LinearPacking::new(&shape, packing.inputs_per_request(), packing.outputs_per_response()).unwrap();
    assert_eq!(again, packing);
    assert!(LinearWeights::new(&packing, &weights).unwrap().noise_bits() <= 18);
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
    // Places of a channel: 16 x 16, 8 x 8, 32 x 32 and 64 x 64. What wraps around lands among the zeros behind the last row.
    for (shape, inputs, outputs) in [
        (square(4, 15, 8, 3, 1, 1), 4, 4),
        (square(8, 7, 8, 3, 2, 1), 8, 8),
        (square(2, 30, 4, 5, 1, 2), 2, 2),
        (square(2, 61, 2, 7, 3, 3), 1, 1),
    ] {
        let packing = LinearPacking::new(&shape, inputs, outputs).unwrap();
        assert!(LinearPacking::new(&shape, 1, inputs * outputs + 1).is_err());
        let mut prg = prg(6);
        let weights = random_weights(packing.weights(), 255, &mut prg);
        let x = random_words(packing.inputs(), &mut prg);
        assert_eq!(convolve_packed(&packing, &weights, &x), convolve(&shape, &weights, &x), "{shape:?}");
    }
}

fn noise_of(squares: u64) -> u64 {
    crate::rlwe::noise::bound(squares)
}

#[test]
fn malformed_messages_and_calls_out_of_turn_are_refused() {
    let mut prg = prg(3);
    let shape = square(2, 40, 3, 3, 1, 1);
    let packing = LinearPacking::choose(&shape).unwrap();
    assert_eq!((packing.request_ciphertexts(), packing.response_ciphertexts()), (1, 3));
    let key = SecretKey::generate(&LINEAR, &mut prg);
    let public = PublicKey::from_bytes(&LINEAR, &key.public_key(&mut prg)).unwrap();
    let weights = LinearWeights::new(&packing, &random_weights(packing.weights(), 127, &mut prg)).unwrap();
    let x = random_words(packing.inputs(), &mut prg);
    let request = encrypt_request(&key, &packing, &x, 0, &mut prg).unwrap();
    let mut responder = LinearResponder::new(&weights);
    let mut s = vec![9; packing.outputs()];
    let untouched = s.clone();
    assert_eq!(responder.respond(0, &public, &mut prg, &mut s).unwrap_err().kind(), ErrorKind::InvalidState);

    let mut above = request.clone();
    above[32..36].fill(0xff);
    let mut last_above = request.clone();
    let length = last_above.len();
    last_above[length - 4..].fill(0xff);
    let long = |m: &[u8]| [m, &[0]].concat();
    for bad in [&[][..], &request[1..], &long(&request), &above, &last_above] {
        assert_eq!(responder.absorb(0, bad).unwrap_err().kind(), ErrorKind::MalformedMessage);
    }
    assert_eq!(responder.absorb(1, &request).unwrap_err().kind(), ErrorKind::InvalidState);
    responder.absorb(0, &request).unwrap();
    assert_eq!(responder.absorb(0, &request).unwrap_err().kind(), ErrorKind::InvalidState);

    assert_eq!(responder.respond(0, &public, &mut prg, &mut s[1..]).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(responder.respond(3, &public, &mut prg, &mut s).unwrap_err().kind(), ErrorKind::InvalidState);
    assert_eq!(s, untouched);
    let response = responder.respond(1, &public, &mut prg, &mut s).unwrap();
    assert_eq!(responder.respond(1, &public, &mut prg, &mut s).unwrap_err().kind(), ErrorKind::InvalidState);

    let mut m = untouched.clone();
    for bad in [&[][..], &response[1..], &long(&response)] {
        let error = decrypt_response(&key, &packing, 1, bad, &mut m).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MalformedMessage);
    }
    assert!(decrypt_response(&key, &packing, 3, &response, &mut m).is_err());
    assert!(decrypt_response(&key, &packing, 1, &response, &mut m[1..]).is_err());
    assert_eq!(m, untouched);
    decrypt_response(&key, &packing, 1, &response, &mut m).unwrap();
    // Only the answer's own outputs are written, on both sides.
    let part = packing.response_outputs(1);
    assert!((0..packing.outputs()).all(|k| part.contains(&k) || (s[k], m[k]) == (9, 9)));
    assert!(encrypt_request(&key, &packing, &x, 1, &mut prg).is_err());
    assert!(encrypt_request(&key, &packing, &x[1..], 0, &mut prg).is_err());
}
