//! Noise measured, and decryption with the whole budget used up.

use super::*;
use crate::rlwe::encode::{Element, decode_element, decode_word};
use crate::rlwe::linear::Layout;
use crate::rlwe::modulus::Modulus;
use crate::rlwe::poly::Values;
use crate::rlwe::switch::{self, Opening};
use alloc::vec;

fn sum_of(weights: &LinearWeights, key: &SecretKey, r: &[u32], prg: &mut Prg) -> Ciphertext<crate::rlwe::poly::Values> {
    let packing = weights.packing();
    let mut responder = LinearResponder::new(weights, &[]);
    for i in 0..packing.request_ciphertexts() {
        responder.absorb(i, &bound_request(key, packing, r, i, prg).unwrap()).unwrap();
    }
    responder.take_sum(0).unwrap()
}

/// The plain product of a layer of one answer, by decryption of nothing: from the noiseless definition.
fn dense(weights: &[i16], r: &[u32], outputs: usize) -> Vec<u32> {
    (0..outputs)
        .map(|o| {
            let row = &weights[o * r.len()..(o + 1) * r.len()];
            row.iter().zip(r).fold(0u32, |sum, (&w, &x)| sum.wrapping_add((w as u32).wrapping_mul(x)))
        })
        .collect()
}

#[test]
fn noise_stays_within_the_bound_over_many_keys() {
    // Four output channels per answer: 4·2048 weights enter every coefficient's noise.
    let (inputs, outputs) = (2048, 4);
    let packing = LinearPacking::new(
        &layer(inputs, 1, outputs, 1),
        Layout { tile: [1, 1], apart: [false; 2], inputs: 1024, outputs: 4 },
    )
    .unwrap();
    let mut prg = prg(1);
    let (mut largest, mut squares, mut count) = (0u128, 0f64, 0f64);
    let w: Vec<i16> = (0..packing.weights()).map(|_| prg.below(201) as i16 - 100).collect();
    let weights = LinearWeights::new(&packing, &w, Keep::Transformed).unwrap();
    for _ in 0..60 {
        let (key, _) = keys(&LINEAR, &mut prg);
        let r: Vec<u32> = (0..inputs).map(|_| prg.next_u32()).collect();
        let sum = sum_of(&weights, &key, &r, &mut prg).into_coefficients();
        let places: Vec<usize> = packing.output_places(0).collect();
        for noise in noise_at(phase(&key, sum), &places, &dense(&w, &r, outputs)) {
            largest = largest.max(noise.unsigned_abs());
            squares += (noise as f64) * (noise as f64);
            count += 1.0;
        }
    }
    let bound = weights.noise_bound();
    assert!(largest <= u128::from(bound), "{largest} of {bound}");
    // The bound is eight standard deviations: the measured one is within 20% (240 samples: 4.4 of their deviations).
    let measured = 8.0 * (squares / count).sqrt() / bound as f64;
    assert!((0.8..1.2).contains(&measured), "{measured}");
}

#[test]
fn noise_of_hidden_answers_is_flooding_and_little_else() {
    let packing = LinearPacking::choose(&layer(1, 64, 1, 1)).unwrap();
    let weights = LinearWeights::new(&packing, &[255], Keep::Transformed).unwrap();
    let mut prg = prg(2);
    let (key, public) = keys(&LINEAR, &mut prg);
    let r: Vec<u32> = (0..4096).map(|_| prg.next_u32()).collect();
    let mut responder = LinearResponder::new(&weights, &[]);
    responder.absorb(0, &bound_request(&key, &packing, &r, 0, &mut prg).unwrap()).unwrap();
    let mut s = alloc::vec![0; 4096];
    let answer = responder.hidden(0, &public, &mut prg, &mut s).unwrap();
    let m: Vec<u32> = r.iter().zip(&s).map(|(r, s)| r.wrapping_mul(255).wrapping_add(*s)).collect();
    let places: Vec<usize> = packing.output_places(0).collect();
    let noise = noise_at(phase(&key, answer), &places, &m);
    let limit = (1i128 << 58) + (1 << 19);
    assert!(noise.iter().all(|x| x.abs() <= limit));
    // Uniform: each sixteenth of the range holds 256 of 4096, standard deviation 15.5.
    let mut cells = [0i32; 16];
    for x in &noise {
        cells[(((x + (1 << 58)) >> 55).clamp(0, 15)) as usize] += 1;
    }
    assert!(cells.iter().all(|n| (n - 256).abs() < 93), "{cells:?}");
}

/// The residues of an integer.
fn residue(x: i128, q: Modulus) -> u32 {
    x.rem_euclid(i128::from(q.value())) as u32
}

/// A ciphertext of encoded messages whose noise is exactly `noise` with random signs, switched, sent and decrypted.
fn at_the_edge(
    key: &SecretKey,
    noise: i128,
    encoded: impl Fn(usize, usize, Modulus) -> u32,
    prg: &mut Prg,
) -> Vec<u64> {
    let params = key.params();
    let c1 = Poly::<Values>::uniform(params, &prg.array());
    let mut c0 = Poly::<Values>::zero(params);
    c0.sub_product(&c1, &key.factors());
    let (mut c0, c1) = (c0.into_coefficients(), c1.into_coefficients());
    for i in 0..params.degree {
        let error = if prg.next_u32() & 1 == 0 { noise } else { -noise };
        c0.add_at(i, |prime, q| q.add(residue(error, q), encoded(i, prime, q)));
    }
    let bytes = switch::write(&c0, &c1, params.switched_bits, &(0..params.degree), 0..params.degree);
    let (mut opening, mut rest, mut values) = (Opening::new(key, params.switched_bits), &bytes[..], vec![]);
    for bytes in switch::pieces(params, params.switched_bits, params.degree) {
        let (piece, later) = rest.split_at(bytes);
        let count = (params.degree - values.len()).min(switch::PIECE);
        if let Some(c0) = opening.absorb(piece, count).unwrap() {
            values.extend_from_slice(&opening.values(&c0, values.len()..values.len() + count));
        }
        rest = later;
    }
    assert!(rest.is_empty());
    values
}

#[test]
fn a_million_coefficients_decrypt_with_the_whole_budget_used() {
    let mut prg = prg(3);
    let (mut key, _) = keys(&LINEAR, &mut prg);
    // Flooding at its extreme, the weights' noise at its bound, the zero encryption's at 2^12 (17 standard deviations).
    let noise = (1 << 58) + (1 << 18) + (1 << 12);
    for round in 0..256 {
        if round % 8 == 0 {
            (key, _) = keys(&LINEAR, &mut prg);
        }
        let m: Vec<u32> = (0..4096)
            .map(|i| match i {
                0..8 => [0, 1, u32::MAX, 1 << 31, (1 << 31) - 1, (1 << 31) + 1, 2, u32::MAX - 1][i],
                _ => prg.next_u32(),
            })
            .collect();
        let v = at_the_edge(&key, noise, |i, prime, q| Word::new(m[i]).residue(prime, q), &mut prg);
        assert!(v.iter().zip(&m).all(|(&v, &m)| decode_word(v, 32) == m));
    }
}

#[test]
fn a_hundred_thousand_slot_coefficients_decrypt_with_the_whole_budget_used() {
    let mut prg = prg(4);
    let noise = (1 << 85) + (1 << 47);
    for _ in 0..16 {
        let (key, _) = keys(&SLOTS, &mut prg);
        let m: Vec<u64> = (0..8192)
            .map(|i| if i < 4 { [0, 1, SLOT_PRIME / 2, SLOT_PRIME - 1][i] } else { prg.below(SLOT_PRIME) })
            .collect();
        let v = at_the_edge(&key, noise, |i, prime, q| Element::new(m[i]).residue(prime, q), &mut prg);
        assert!(v.iter().zip(&m).all(|(&v, &m)| decode_element(v) == m));
    }
}

#[test]
fn twice_the_tolerated_noise_is_noticed() {
    // The tests above could not fail if errors were lost on the way: beyond the tolerance every coefficient is wrong.
    let mut prg = prg(5);
    let (key, _) = keys(&LINEAR, &mut prg);
    let noise = (modulus(&LINEAR) >> 32) as i128;
    let v = at_the_edge(&key, noise, |_, _, _| 0, &mut prg);
    assert!(v.iter().all(|&v| decode_word(v, 32) != 0));
}
