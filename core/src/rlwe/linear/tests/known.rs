//! Layers of known networks: through encryption, and what they cost.

use super::*;

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
            let (s, m) = run(&packing, &weights, &mut x, &mut prg);
            let y = convolve(&shape, &weights, &x);
            assert!(m.iter().zip(&s).zip(&y).all(|((m, s), y)| *m == y.wrapping_add(*s)), "{shape:?}");
        }
    }
}

/// A layer through encryption against its definition.
fn assert_exact(shape: &ConvShape) {
    let mut prg = prg(2);
    let packing = LinearPacking::choose(shape).unwrap();
    let weights = random_weights(packing.weights(), 100, &mut prg);
    let mut x = random_words(packing.inputs(), &mut prg);
    let (s, m) = run(&packing, &weights, &mut x, &mut prg);
    let y = convolve(shape, &weights, &x);
    assert!(m.iter().zip(&s).zip(&y).all(|((m, s), y)| *m == y.wrapping_add(*s)), "{shape:?}");
}

#[test]
fn stems_on_images_of_224_are_exact() {
    // ResNet, SqueezeNet, MobileNet (TensorFlow's padding: below and right alone), VGG.
    let below = ConvShape { pad_top: 0, pad_left: 0, ..square(2, 224, 2, 3, 2, 1) };
    for shape in [square(3, 224, 2, 7, 2, 3), square(3, 224, 2, 3, 2, 0), below, square(1, 224, 1, 3, 1, 1)] {
        assert!(LinearPacking::choose(&shape).unwrap().tiles() > 1);
        assert_exact(&shape);
    }
}

#[test]
fn depthwise_layers_are_exact() {
    for (channels, size, stride) in [(2, 112, 1), (2, 112, 2), (30, 14, 1), (30, 14, 2)] {
        assert_exact(&depthwise(channels, size, 3, stride, 1));
    }
}

#[test]
fn dilated_and_grouped_layers_are_exact() {
    let dilated = ConvShape { dilation_height: 4, dilation_width: 4, ..square(6, 28, 5, 3, 1, 4) };
    assert_exact(&dilated);
    assert_exact(&ConvShape { groups: 4, ..square(32, 14, 32, 3, 1, 1) });
}

#[test]
fn layers_of_known_networks_cost_what_they_did() {
    // Tiles, M, L, requests, answers, and bytes of both without fresh inputs.
    for (shape, counts, bytes) in [
        (square(64, 32, 64, 3, 1, 1), [1, 3, 1, 22, 64], 2_694_848),
        (square(3, 224, 64, 7, 2, 3), [4, 1, 1, 48, 256], 11_374_080),
        (square(3, 224, 64, 3, 2, 0), [4, 1, 1, 48, 256], 11_308_096),
        (square(256, 56, 64, 1, 1, 0), [1, 1, 1, 256, 64], 14_469_632),
        (square(64, 224, 64, 3, 1, 1), [14, 1, 1, 896, 896], 76_353_536),
        (depthwise(96, 112, 3, 2, 1), [1, 1, 1, 384, 96], 21_704_448),
        (depthwise(384, 14, 3, 1, 1), [1, 6, 3, 64, 128], 6_084_608),
        (depthwise(960, 7, 3, 1, 1), [1, 12, 5, 80, 192], 8_060_032),
    ] {
        let p = LinearPacking::choose(&shape).unwrap();
        let (requests, answers) = (p.request_ciphertexts(), p.response_ciphertexts());
        assert_eq!(
            [p.tiles(), p.inputs_per_request(), p.outputs_per_response(), requests, answers],
            counts,
            "{shape:?}"
        );
        let sent = (0..answers).map(|j| p.response_bytes(j)).sum::<usize>();
        assert_eq!(requests * p.request_bytes(0, &[]) + sent, bytes, "{shape:?}");
    }
}

#[test]
fn depthwise_layers_have_no_polynomials_between_channels_apart() {
    // Requests of 6 channels, answers of 3: each answer meets one request.
    assert_eq!(LinearPacking::choose(&depthwise(384, 14, 3, 1, 1)).unwrap().weight_polynomials(), 128);
    // 12 and 5: answers whose channels lie in two requests have a polynomial for either.
    let packing = LinearPacking::choose(&depthwise(960, 7, 3, 1, 1)).unwrap();
    let two = (0..192).filter(|j| j * 5 / 12 != (j * 5 + 4) / 12).count() as u64;
    assert_eq!((packing.weight_polynomials(), two), (192 + 64, 64));
}
