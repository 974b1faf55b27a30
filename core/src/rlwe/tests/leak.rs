//! What the client could learn of the weights, tried out: with its secret key, its uniform halves and its errors, and on
//! answers before they are switched, which tell more than what is sent.
//!
//! Each attack succeeds on an answer that was put together here from the same steps with one left out, so it can tell.

use super::*;
use crate::rlwe::linear::Layout;
use crate::rlwe::poly::Values;

/// The uniform half of a request, whose seed comes first.
fn uniform_half(params: &'static RingParams, request: &[u8]) -> Poly<Values> {
    Poly::uniform(params, request.first_chunk().unwrap())
}

/// Reads the polynomial w off c1 = w·a by division in the transformed domain, as integers of least magnitude.
fn divide_by_uniform_half(c1: Poly<Values>, request: &[u8]) -> Vec<i128> {
    let a = uniform_half(c1.params, request);
    let mut quotient = c1;
    for ((prime, x), (_, a)) in quotient.parts_mut().zip(a.parts()) {
        let q = prime.modulus;
        for (x, &a) in x.iter_mut().zip(a) {
            let inverse = q.invert_vartime(a);
            *x = q.montgomery_mul(q.to_montgomery(*x), inverse);
        }
    }
    lift(&quotient.into_coefficients())
}

/// The weights a polynomial holds at their places.
fn weights_in(packing: &LinearPacking, polynomial: &[i128]) -> Vec<i128> {
    let mut weights = alloc::vec![0; packing.weights()];
    for (place, number) in packing.weight_places(0, 0) {
        weights[number] = polynomial[place];
    }
    weights
}

#[test]
fn the_uniform_half_tells_no_weights() {
    let packing = LinearPacking::choose(&layer(2, 20, 3, 3)).unwrap();
    assert_eq!((packing.request_ciphertexts(), packing.response_ciphertexts()), (1, 1));
    let mut prg = prg(11);
    let w: Vec<i16> = (0..packing.weights()).map(|_| prg.below(511) as i16 - 255).collect();
    let weights = LinearWeights::new(&packing, &w, Keep::Transformed).unwrap();
    let (key, public) = keys(&LINEAR, &mut prg);
    let r: Vec<u32> = (0..packing.inputs()).map(|_| prg.next_u32()).collect();
    let request = bound_request(&key, &packing, &r, 0, &mut prg).unwrap();
    let mut s = alloc::vec![0; packing.outputs()];
    let absorbed = || {
        let mut responder = LinearResponder::new(&weights, &[]);
        responder.absorb(0, &request).unwrap();
        responder
    };

    // Without the zero encryption (mask and flooding do not touch c1): every weight is read.
    let bare = absorbed().take_sum(0).unwrap();
    let read = weights_in(&packing, &divide_by_uniform_half(bare.c1, &request));
    assert!(read.iter().zip(&w).all(|(&read, &w)| read == i128::from(w)));

    // The true answer: what is read is as large as q, and no weight among it.
    let hidden = absorbed().hidden(0, &public, &mut prg, &mut s).unwrap();
    let read = divide_by_uniform_half(hidden.c1.into_values(), &request);
    let small = read.iter().filter(|x| x.abs() < 1 << 80).count();
    assert!(small < 8, "{small}");
    let right = weights_in(&packing, &read).iter().zip(&w).filter(|&(&read, &w)| read == i128::from(w)).count();
    assert_eq!(right, 0);
}

#[test]
fn no_candidate_weight_explains_a_sent_uniform_half() {
    // One weight of 511 candidates, on the bytes as sent: the client computes the switched w·a for each.
    let packing = LinearPacking::choose(&layer(1, 4, 1, 1)).unwrap();
    let weights = LinearWeights::new(&packing, &[-173], Keep::Transformed).unwrap();
    let mut prg = prg(12);
    let (key, public) = keys(&LINEAR, &mut prg);
    let r: Vec<u32> = (0..16).map(|_| prg.next_u32()).collect();
    let request = bound_request(&key, &packing, &r, 0, &mut prg).unwrap();
    let mut responder = LinearResponder::new(&weights, &[]);
    responder.absorb(0, &request).unwrap();
    let mut s = alloc::vec![0; 16];
    let sent = responder.respond(0, &public, &mut prg, &mut s).unwrap();
    let mut responder = LinearResponder::new(&weights, &[]);
    responder.absorb(0, &request).unwrap();
    let mut bare = responder.take_sum(0).unwrap().into_coefficients();
    bare.add_flooding(LINEAR.flooding_bits, &(0..LINEAR.degree), &mut prg);
    let unprotected =
        switch::write(&bare.c0, &bare.c1, LINEAR.switched_bits, &(0..LINEAR.degree), packing.output_places(0));

    // N·41 bits of the uniform half come first.
    let half = LINEAR.degree * 41 / 8;
    let a = lift(&uniform_half(&LINEAR, &request).into_coefficients());
    let explains = |w: i128, bytes: &[u8]| {
        let mut wa = Poly::<Coefficients>::zero(&LINEAR);
        for (i, a) in a.iter().enumerate() {
            wa.add_at(i, |_, q| (a * w).rem_euclid(i128::from(q.value())) as u32);
        }
        switch::write(&wa, &wa, LINEAR.switched_bits, &(0..0), 0..0)[..half] == bytes[..half]
    };
    let candidates = |bytes: &[u8]| (-255..=255).filter(|&w| explains(w, bytes)).collect::<Vec<i128>>();
    assert_eq!(candidates(&unprotected), [-173]);
    assert_eq!(candidates(&sent), []);
}

/// Estimates the weights by least squares from the noise of answers and the known errors of requests. The weight at place p of the weight
/// polynomial adds w·errors[k - p] to noise[k]; each estimate in turn is corrected by its correlation with what the others leave unexplained.
fn least_squares(packing: &LinearPacking, observed: &[(Vec<i128>, Vec<i128>)]) -> Vec<f64> {
    let n = LINEAR.degree;
    let outputs: Vec<usize> = packing.output_places(0).collect();
    let unknowns: Vec<(usize, usize)> = packing.weight_places(0, 0).collect();
    let error = |errors: &[i128], k: usize, place: usize| match k >= place {
        true => errors[k - place] as f64,
        false => -(errors[n + k - place] as f64),
    };
    let mut left: Vec<Vec<f64>> = observed.iter().map(|(noise, _)| noise.iter().map(|&x| x as f64).collect()).collect();
    let mut estimates = alloc::vec![0.0; packing.weights()];
    for _ in 0..6 {
        for &(place, number) in &unknowns {
            let (mut product, mut square) = (0.0, 0.0);
            for (left, (_, errors)) in left.iter().zip(observed) {
                for (&k, &noise) in outputs.iter().zip(left) {
                    let e = error(errors, k, place);
                    product += noise * e;
                    square += e * e;
                }
            }
            let change = product / square;
            estimates[number] += change;
            for (left, (_, errors)) in left.iter_mut().zip(observed) {
                for (&k, noise) in outputs.iter().zip(left) {
                    *noise -= change * error(errors, k, place);
                }
            }
        }
    }
    estimates
}

#[test]
fn the_noise_tells_no_weights() {
    let packing = LinearPacking::choose(&layer(1, 64, 1, 3)).unwrap();
    let w: [i16; 9] = [3, -255, 17, 0, 100, -1, 42, 255, -77];
    let weights = LinearWeights::new(&packing, &w, Keep::Transformed).unwrap();
    let mut prg = prg(13);
    let (key, public) = keys(&LINEAR, &mut prg);
    let places: Vec<usize> = packing.output_places(0).collect();
    let (mut bare, mut flooded) = (Vec::new(), Vec::new());
    for _ in 0..128 {
        // r = 0 is the client's choice here: the product is zero and there is no rounding of encodings.
        let r = alloc::vec![0; packing.inputs()];
        let request = bound_request(&key, &packing, &r, 0, &mut prg).unwrap();
        let errors = request_errors(&key, &packing, &request, 0, &r);
        let mut s = alloc::vec![0; packing.outputs()];
        let absorbed = || {
            let mut responder = LinearResponder::new(&weights, &[]);
            responder.absorb(0, &request).unwrap();
            responder
        };
        // Without flooding: the zero encryption's own noise, deviation 240, is all that stands before W·e.
        let sum = absorbed().take_sum(0).unwrap().add_zero_encryption(&public, &(0..LINEAR.degree), &mut prg);
        bare.push((noise_at(phase(&key, sum), &places, &s), errors.clone()));
        let hidden = absorbed().hidden(0, &public, &mut prg, &mut s).unwrap();
        flooded.push((noise_at(phase(&key, hidden), &places, &s), errors));
    }
    // Without flooding the deviation of an estimate is 240/(3.24·sqrt(128·3844)) = 0.11: every weight is read exactly.
    let estimates = least_squares(&packing, &bare);
    let right = |estimates: &[f64]| estimates.iter().zip(&w).filter(|&(x, &w)| (x - f64::from(w)).abs() < 0.5).count();
    assert_eq!(right(&estimates), 9, "{estimates:?}");
    // With flooding it is 2^58/sqrt(3)/(3.24·sqrt(128·3844)) = 2^46: estimates are of that size, whatever the weights are.
    let estimates = least_squares(&packing, &flooded);
    assert_eq!(right(&estimates), 0, "{estimates:?}");
    let deviation = f64::powi(2.0, 58) / 3f64.sqrt() / (3.24 * f64::sqrt(128.0 * 3844.0));
    let square = estimates.iter().map(|x| (x / deviation) * (x / deviation)).sum::<f64>();
    // Chi squared of nine degrees of freedom: beyond these with probability 10^-6.
    assert!((0.1..46.0).contains(&square), "{square}");
}

#[test]
fn the_uniform_half_tells_no_slot_multipliers() {
    let mut prg = prg(14);
    let (key, public) = keys(&SLOTS, &mut prg);
    let u: Vec<u64> = (0..SLOTS.degree).map(|_| prg.below(SLOT_PRIME)).collect();
    let request = encrypt_slots(&key, &u, &mut prg).unwrap();
    let read = |c1: Poly<Values>| -> Vec<u64> {
        let quotient = divide_by_uniform_half(c1, &request);
        let mut slots = quotient.iter().map(|x| x.rem_euclid(i128::from(SLOT_PRIME)) as u64).collect::<Vec<_>>();
        slots::field::to_slots(&mut slots);
        slots
    };
    let right = |slots: &[u64]| slots.iter().zip(&u).filter(|(a, b)| a == b).count();
    let bare = slots::products(&request, &u, &mut prg).unwrap();
    assert_eq!(right(&read(bare.c1)), SLOTS.degree);
    let mut share = alloc::vec![0; SLOTS.degree];
    let hidden = slots::hidden_products(&public, &request, &u, &mut prg, &mut share).unwrap();
    assert_eq!(right(&read(hidden.c1.into_values())), 0);
}

/// Every coefficient that is sent, of every answer of packings of every sort, has a mask and flooding of its own, and every
/// answer a zero encryption of its own, also when the same requests are answered again.
#[test]
fn every_answer_of_every_packing_is_hidden_whole() {
    let mut prg = prg(15);
    let (key, public) = keys(&LINEAR, &mut prg);
    let strided = ConvShape { stride_height: 2, stride_width: 2, pad_top: 1, pad_left: 1, ..layer(2, 7, 5, 3) };
    let grouped = ConvShape { groups: 3, ..layer(6, 5, 9, 2) };
    let [whole, parts] = [[7, 7], [2, 3]];
    let layouts = [
        // Tiles, the last of which hold fewer windows; two channels an answer, but the last.
        (layer(2, 8, 5, 3), Layout { tile: parts, apart: [false; 2], inputs: 1, outputs: 2 }),
        (strided, Layout { tile: whole, apart: [true; 2], inputs: 3, outputs: 2 }),
        (strided, Layout { tile: parts, apart: [true, false], inputs: 2, outputs: 4 }),
        (grouped, Layout { tile: whole, apart: [false; 2], inputs: 4, outputs: 4 }),
        // Products with integers, in one tile and in several.
        (layer(2, 6, 3, 1), Layout { tile: whole, apart: [false; 2], inputs: 1, outputs: 1 }),
        (layer(2, 6, 3, 1), Layout { tile: parts, apart: [false; 2], inputs: 1, outputs: 1 }),
    ];
    let (mut masks, mut floods) = (Vec::new(), Vec::new());
    // The first words of the uniform halves: bare and as they leave.
    let mut halves = Vec::new();
    for (shape, layout) in layouts {
        let packing = LinearPacking::new(&shape, layout).unwrap();
        let w: Vec<i16> = (0..packing.weights()).map(|_| prg.below(511) as i16 - 255).collect();
        let weights = LinearWeights::new(&packing, &w, Keep::Plain).unwrap();
        // r = 0: what decrypts is s.
        let r = alloc::vec![0; packing.inputs()];
        let requests: Vec<_> = (0..packing.request_ciphertexts())
            .map(|i| bound_request(&key, &packing, &r, i, &mut prg).unwrap())
            .collect();
        let absorbed = || {
            let mut responder = LinearResponder::new(&weights, &[]);
            requests.iter().enumerate().for_each(|(i, request)| responder.absorb(i, request).unwrap());
            responder
        };
        let mut bare = absorbed();
        for mut responder in [absorbed(), absorbed()] {
            let mut s = alloc::vec![0; packing.outputs()];
            for j in 0..packing.response_ciphertexts() {
                let hidden = responder.hidden(j, &public, &mut prg, &mut s).unwrap();
                if let Ok(sum) = bare.take_sum(j) {
                    halves.push(lift(&sum.c1.into_coefficients())[..8].to_vec());
                }
                halves.push(lift(&hidden.c1)[..8].to_vec());
                let own: Vec<u32> = packing.response_outputs(j).map(|output| s[output]).collect();
                floods.extend(noise_at(phase(&key, hidden), &packing.output_places(j).collect::<Vec<_>>(), &own));
            }
            masks.extend(s);
        }
    }
    // No word twice: all are drawn, and drawn anew. Two of so few are equal with probability 2^-12.
    fn all_differ<T: Ord>(mut values: Vec<T>) -> bool {
        values.sort();
        values.windows(2).all(|pair| pair[0] != pair[1])
    }
    assert!(masks.len() > 900 && masks.len() == floods.len(), "{}", masks.len());
    assert!(all_differ(masks) && all_differ(halves));
    // Uniform in [-2^58, 2^58): all but one in 2^18 beyond 2^40, and none beyond the end.
    assert!(floods.iter().all(|x| (1 << 40..(1 << 58) + (1 << 20)).contains(&x.unsigned_abs())));
    assert!(all_differ(floods));
}
