//! The server's responder: what it refuses, what it keeps, and that what it is given of the weights does not show in its answers.

use super::*;
use crate::rlwe::params::LINEAR;

#[test]
fn malformed_messages_and_calls_out_of_turn_are_refused() {
    let mut prg = prg(3);
    let shape = square(2, 40, 3, 3, 1, 1);
    let packing = LinearPacking::choose(&shape).unwrap();
    assert_eq!((packing.request_ciphertexts(), packing.response_ciphertexts()), (1, 3));
    let key = SecretKey::generate(&LINEAR, &mut prg);
    let public = PublicKey::from_bytes(&LINEAR, &key.public_key(&mut prg)).unwrap();
    let weights =
        LinearWeights::new(&packing, &random_weights(packing.weights(), 127, &mut prg), Keep::Transformed).unwrap();
    let x = random_words(packing.inputs(), &mut prg);
    let request = bound_request(&key, &packing, &x, 0, &mut prg).unwrap();
    let mut responder = LinearResponder::new(&weights, &[]);
    let mut s = vec![9; packing.outputs()];
    let untouched = s.clone();
    assert_eq!(responder.respond(0, &public, &mut prg, &mut s).unwrap_err().kind(), ErrorKind::InvalidState);

    let long = |m: &[u8]| [m, &[0]].concat();
    for bad in [&[][..], &request[1..], &long(&request)] {
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
    let part: Vec<usize> = packing.response_outputs(1).collect();
    assert!((0..packing.outputs()).all(|k| part.contains(&k) || (s[k], m[k]) == (9, 9)));
    assert!(bound_request(&key, &packing, &x, 1, &mut prg).is_err());
    assert!(bound_request(&key, &packing, &x[1..], 0, &mut prg).is_err());
}

/// All answers of a layer for the same key, requests and randomness, in the order asked for; then s.
fn answers(packing: &LinearPacking, weights: &[i16], keep: Keep, order: &[usize]) -> (Vec<Vec<u8>>, Vec<u32>) {
    let mut prg = prg(8);
    let key = SecretKey::generate(&LINEAR, &mut prg);
    let public = PublicKey::from_bytes(&LINEAR, &key.public_key(&mut prg)).unwrap();
    let x = random_words(packing.inputs(), &mut prg);
    let weights = LinearWeights::new(packing, weights, keep).unwrap();
    let mut responder = LinearResponder::new(&weights, &[]);
    for i in 0..packing.request_ciphertexts() {
        responder.absorb(i, &bound_request(&key, packing, &x, i, &mut prg).unwrap()).unwrap();
    }
    let mut s = vec![0; packing.outputs()];
    let mut out = vec![vec![]; packing.response_ciphertexts()];
    for &j in order {
        // Each answer with randomness of its own, whatever the order.
        out[j] = responder.respond(j, &public, &mut super::prg(100 + j as u64), &mut s).unwrap();
    }
    (out, s)
}

#[test]
fn plain_and_transformed_weights_answer_alike_in_any_order() {
    let grouped = ConvShape { groups: 3, ..square(9, 12, 6, 3, 1, 1) };
    for (shape, tile, inputs, outputs) in [
        (square(5, 12, 4, 3, 1, 1), [5, 12], 2, 3),
        (grouped, [6, 6], 2, 4),
        (depthwise(7, 12, 3, 2, 1), [3, 3], 3, 2),
        // Constants as polynomials, of a single tile and of four, dense and in groups.
        (square(5, 12, 4, 1, 1, 0), [12, 12], 1, 1),
        (ConvShape { groups: 2, ..square(6, 12, 4, 1, 2, 0) }, [3, 3], 1, 1),
    ] {
        let packing = cut(&shape, tile, inputs, outputs).unwrap();
        let weights = random_weights(packing.weights(), 127, &mut prg(7));
        let forwards: Vec<usize> = (0..packing.response_ciphertexts()).collect();
        let backwards: Vec<usize> = forwards.iter().rev().copied().collect();
        let expected = answers(&packing, &weights, Keep::Transformed, &forwards);
        assert!(answers(&packing, &weights, Keep::Plain, &forwards) == expected, "{shape:?}");
        assert!(answers(&packing, &weights, Keep::Plain, &backwards) == expected, "{shape:?}");
        let mut others = weights.clone();
        others[0] ^= 1;
        assert!(answers(&packing, &others, Keep::Plain, &forwards).0 != expected.0);
        assert!(answers(&packing, &weights, Keep::Transformed, &backwards).1 == expected.1);
    }
}

#[test]
fn constants_are_kept_as_integers_and_agree_with_polynomials() {
    // 64 x 64 pixels fill a ciphertext: M = L = 1.
    let shape = square(3, 64, 2, 1, 1, 0);
    let packing = LinearPacking::choose(&shape).unwrap();
    assert_eq!((packing.weight_polynomials(), packing.transformed_bytes()), (6, 12));
    let mut prg = prg(9);
    let weights = random_weights(6, 255, &mut prg);
    let mut x = random_words(packing.inputs(), &mut prg);
    let (s, m) = run(&packing, &weights, &mut x, &mut prg);
    let y = convolve(&shape, &weights, &x);
    assert!(m.iter().zip(&s).zip(&y).all(|((m, s), y)| *m == y.wrapping_add(*s)));
    // A kernel of two weights is none.
    let two = LinearPacking::choose(&ConvShape { kernel_width: 2, ..shape }).unwrap();
    assert_eq!(two.transformed_bytes(), two.weight_polynomials() * 49152);
}

#[test]
fn the_responder_drops_requests_when_the_last_answers_are_computed() {
    let packing = cut(&square(2, 12, 3, 3, 1, 1), [6, 12], 2, 1).unwrap();
    assert_eq!((packing.tiles(), packing.request_ciphertexts(), packing.response_ciphertexts()), (2, 2, 6));
    let mut prg = prg(10);
    let key = SecretKey::generate(&LINEAR, &mut prg);
    let public = PublicKey::from_bytes(&LINEAR, &key.public_key(&mut prg)).unwrap();
    let weights = LinearWeights::new(&packing, &[1; 54], Keep::Plain).unwrap();
    let x = random_words(packing.inputs(), &mut prg);
    let requests: Vec<_> = (0..2).map(|i| bound_request(&key, &packing, &x, i, &mut prg).unwrap()).collect();
    let mut responder = LinearResponder::new(&weights, &[]);
    for (i, request) in requests.iter().enumerate() {
        assert_eq!(responder.held(), i);
        responder.absorb(i, request).unwrap();
    }
    let mut s = vec![0; packing.outputs()];
    // Requests, and the other tile's answer after the first of two.
    for (j, held) in [3, 2, 3, 2, 1, 0].into_iter().enumerate() {
        responder.respond(j, &public, &mut prg, &mut s).unwrap();
        assert_eq!(responder.held(), held, "after answer {j}");
    }
    // What was dropped is not taken again.
    assert_eq!(responder.absorb(0, &requests[0]).unwrap_err().kind(), ErrorKind::InvalidState);
    assert_eq!(responder.respond(5, &public, &mut prg, &mut s).unwrap_err().kind(), ErrorKind::InvalidState);
}

/// What the benchmark measures is what runs.
#[test]
fn stages_give_the_same_answers() {
    let shape = ConvShape { word_bits: 23, ..square(5, 12, 9, 3, 1, 1) };
    for layout in [([12, 12], 2, 3), ([6, 12], 2, 4)] {
        let packing = cut(&shape, layout.0, layout.1, layout.2).unwrap();
        let mut prg = prg(12);
        let key = SecretKey::generate(&LINEAR, &mut prg);
        let public = PublicKey::from_bytes(&LINEAR, &key.public_key(&mut prg)).unwrap();
        let weights = random_weights(packing.weights(), 127, &mut prg);
        let weights = LinearWeights::new(&packing, &weights, Keep::Transformed).unwrap();
        let (fresh, mut mask) = ([true, false, true, true, false], random_words(packing.inputs(), &mut prg));
        let requests: Vec<_> = (0..packing.request_ciphertexts())
            .map(|i| encrypt_request(&key, &packing, &fresh, &mut mask, i, &mut prg).unwrap())
            .collect();
        let [mut s, mut same] = [0; 2].map(|_| vec![0; packing.outputs()]);
        let mut responder = LinearResponder::new(&weights, &fresh);
        requests.iter().enumerate().for_each(|(i, request)| responder.absorb(i, request).unwrap());
        let mut random = super::prg(13);
        let expected: Vec<_> = (0..packing.response_ciphertexts())
            .map(|i| responder.respond(i, &public, &mut random, &mut s).unwrap())
            .collect();
        let mut seen = [0; stages::STAGES];
        let mut mark = |stage: usize| seen[stage] += 1;
        let random = &mut super::prg(13);
        let answers = stages::run(&weights, (&fresh, &requests), &public, random, &mut same, &mut mark).unwrap();
        assert!(answers == expected && s == same);
        assert!(seen.iter().all(|&times| times > 0));
    }
}
