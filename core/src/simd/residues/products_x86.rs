//! Sums of products with AVX2 and with AVX-512: lanes of 64 bits multiply their low words, so even and odd residues go separate ways.

/// Defines a module of kernels from the names that an instruction set gives to the same operations.
macro_rules! kernels {
    ($name:ident, $feature:literal, $vector:ident, $lanes:literal, fetch ahead: $ahead:literal, [$($intrinsic:ident as $operation:ident),* $(,)?]) => {
        pub(super) mod $name {
            use super::super::modulus::Modulus;
            use super::super::products::{BLOCK, Pair, Parts, Sum};
            use alloc::vec::Vec;
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch, $vector as Vector, $($intrinsic as $operation),*};
            use zeroize::optimization_barrier;

            /// Words of a vector.
            const LANES: usize = $lanes;
            /// Vectors of 64 bytes.
            const LINE: usize = 16 / LANES;
            /// Vectors of a block.
            const VECTORS: usize = BLOCK / LANES;

            /// The even and the odd lanes, low words of 64 bits.
            #[inline]
            #[target_feature(enable = $feature)]
            fn split(x: Vector) -> [Vector; 2] {
                [x, shift_right::<32>(x)]
            }

            /// A block of residues.
            type Block = [[u32; LANES]; VECTORS];

            fn blocks(x: &[u32]) -> &[Block] {
                x.as_chunks().0.as_chunks().0
            }

            fn blocks_mut(x: &mut [u32]) -> &mut [Block] {
                x.as_chunks_mut().0.as_chunks_mut().0
            }

            /// Part `i` of a polynomial.
            fn block<'a>(x: &Parts<'a>, i: usize) -> &'a Block {
                &blocks(x.words)[x.step * i]
            }

            /// As [`super::super::products::add_products`].
            #[target_feature(enable = $feature)]
            pub(in super::super) fn add_products(q: Modulus, pairs: &[Pair<'_>], outputs: &mut [Sum<'_, Parts<'_>>]) {
                let reduce = Reduce::new(q);
                let mut outputs: Vec<_> = outputs.iter_mut().map(|output| {
                    let terms = pairs.iter().zip(&output.factors).map(|(&[x, y], &w)| [x, y, w]);
                    (output.sums.each_mut().map(|sum| blocks_mut(sum)), terms.collect::<Vec<_>>())
                }).collect();
                // Of each polynomial, of the even and of the odd lanes, the low and the high half.
                let mut sums = [[zero(); 8]; VECTORS];
                for i in 0..pairs.first().map_or(0, |pair| pair[0].len() / BLOCK) {
                    for ([a, b], terms) in &mut outputs {
                        sums.fill([zero(); 8]);
                        let (fours, rest) = terms.as_chunks::<4>();
                        for (k, four) in fours.iter().enumerate() {
                            // While these are multiplied, the factors of the next come from memory.
                            let next = if $ahead { terms.get(4 * k + 4..).unwrap_or_default() } else { &[] };
                            accumulate(four, next, i, &mut sums);
                        }
                        for term in rest {
                            accumulate(&[*term], &[], i, &mut sums);
                        }
                        for ((a, b), &[p, q, r, s, t, u, v, w]) in a[i].iter_mut().zip(&mut b[i]).zip(&sums) {
                            store(a, reduce.add(load(a), reduce.halves(p, q), reduce.halves(r, s)));
                            store(b, reduce.add(load(b), reduce.halves(t, u), reduce.halves(v, w)));
                        }
                    }
                }
                sums.fill([zero(); 8]);
                optimization_barrier(&sums);
            }

            /// Adds up to four products to both polynomials' sums.
            #[inline]
            #[target_feature(enable = $feature)]
            fn accumulate<const K: usize>(
                terms: &[[Parts<'_>; 3]; K],
                next: &[[Parts<'_>; 3]],
                i: usize,
                sums: &mut [[Vector; 8]; VECTORS],
            ) {
                const { assert!(K <= 4) };
                // The same place of the next terms' factors; without any, what is there already.
                let ahead: [&Block; K] = core::array::from_fn(|k| block(&next.get(k).unwrap_or(&terms[k])[2], i));
                let low = set(0xffff_ffff);
                let mut blocks = [[&[[0; LANES]; VECTORS]; 3]; K];
                for k in 0..K {
                    blocks[k] = terms[k].each_ref().map(|x| block(x, i));
                }
                // A line of the cache of each operand at a time: polynomials lie multiples of 4096 bytes apart, so that their lines push each other
                // out of the first-level cache.
                for (i, sums) in sums.as_chunks_mut::<LINE>().0.iter_mut().enumerate() {
                    if $ahead {
                        for block in ahead {
                            _mm_prefetch::<_MM_HINT_T0>(block[LINE * i].as_ptr().cast());
                        }
                    }
                    // 4·(2^31 - 2^16)^2 < 2^64.
                    let mut products = [[zero(); 4]; LINE];
                    for [x, y, w] in &blocks {
                        for (j, products) in products.iter_mut().enumerate() {
                            let i = LINE * i + j;
                            let ([x, x_odd], [y, y_odd], [w, w_odd]) =
                                (split(load(&x[i])), split(load(&y[i])), split(load(&w[i])));
                            products[0] = add(products[0], multiply(x, w));
                            products[1] = add(products[1], multiply(x_odd, w_odd));
                            products[2] = add(products[2], multiply(y, w));
                            products[3] = add(products[3], multiply(y_odd, w_odd));
                        }
                    }
                    for (sums, products) in sums.iter_mut().zip(products) {
                        for (j, product) in products.into_iter().enumerate() {
                            sums[2 * j] = add(sums[2 * j], and(product, low));
                            sums[2 * j + 1] = add(sums[2 * j + 1], shift_right::<32>(product));
                        }
                    }
                }
            }

            /// As [`super::super::products::add_scaled`].
            #[target_feature(enable = $feature)]
            pub(in super::super) fn add_scaled(q: Modulus, pairs: &[Pair<'_>], outputs: &mut [Sum<'_, i16>]) {
                // Two sums at a time: what is read serves both, and their totals fill half of the registers.
                let (twos, rest) = outputs.as_chunks_mut::<2>();
                twos.iter_mut().for_each(|two| add_scaled_to(q, pairs, two));
                rest.iter_mut().for_each(|one| add_scaled_to(q, pairs, core::array::from_mut(one)));
            }

            #[target_feature(enable = $feature)]
            fn add_scaled_to<const S: usize>(q: Modulus, pairs: &[Pair<'_>], outputs: &mut [Sum<'_, i16>; S]) {
                let reduce = Reduce::new(q);
                let term = |i: usize| (pairs[i], outputs.each_ref().map(|output| set(i64::from(output.factors[i]))));
                let terms: Vec<_> = (0..pairs.len()).map(term).collect();
                // Totals are at most 2^12·2^31·2^15 = 2^58 in magnitude, which q·2^28 exceeds.
                let start = set(i64::from(q.value()) << 28);
                // Of each sum, of each polynomial the even and the odd lanes.
                let mut totals = [[[start; 4]; S]; VECTORS];
                for i in 0..pairs.first().map_or(0, |pair| pair[0].len() / BLOCK) {
                    totals.fill([[start; 4]; S]);
                    let (fours, rest) = terms.as_chunks::<4>();
                    for terms in fours {
                        scale(terms, i, &mut totals);
                    }
                    for term in rest {
                        scale(&[*term], i, &mut totals);
                    }
                    for (s, output) in outputs.iter_mut().enumerate() {
                        let [a, b] = output.sums.each_mut().map(|sum| &mut blocks_mut(sum)[i]);
                        for ((a, b), totals) in a.iter_mut().zip(b).zip(&totals) {
                            let [p, q, r, s] = totals[s];
                            store(a, reduce.add(load(a), reduce.narrow(p), reduce.narrow(q)));
                            store(b, reduce.add(load(b), reduce.narrow(r), reduce.narrow(s)));
                        }
                    }
                }
                totals.fill([[zero(); 4]; S]);
                optimization_barrier(&totals);
            }

            #[inline]
            #[target_feature(enable = $feature)]
            fn scale<const K: usize, const S: usize>(
                terms: &[(Pair<'_>, [Vector; S]); K],
                i: usize,
                totals: &mut [[[Vector; 4]; S]; VECTORS],
            ) {
                let blocks: [_; K] = core::array::from_fn(|k| terms[k].0.each_ref().map(|x| block(x, i)));
                for (i, totals) in totals.iter_mut().enumerate() {
                    let mut sums = *totals;
                    for ([x, y], (_, w)) in blocks.iter().zip(terms) {
                        // Residues are below 2^31: as signed words they are themselves.
                        let ([x, x_odd], [y, y_odd]) = (split(load(&x[i])), split(load(&y[i])));
                        for (sums, &w) in sums.iter_mut().zip(w) {
                            sums[0] = add(sums[0], multiply_signed(x, w));
                            sums[1] = add(sums[1], multiply_signed(x_odd, w));
                            sums[2] = add(sums[2], multiply_signed(y, w));
                            sums[3] = add(sums[3], multiply_signed(y_odd, w));
                        }
                    }
                    *totals = sums;
                }
            }

            /// Constants of a prime in every lane of 64 bits, and q in every word.
            struct Reduce {
                q: Vector,
                words: Vector,
                inverse: Vector,
                two_64: Vector,
                two_96: Vector,
            }

            impl Reduce {
                #[inline]
                #[target_feature(enable = $feature)]
                fn new(q: Modulus) -> Self {
                    let ([_, two_64, two_96], word) = (q.limbs(), i64::from(q.value()));
                    Self {
                        q: set(word),
                        words: set(word << 32 | word),
                        inverse: set(i64::from(q.inverse())),
                        two_64: set(i64::from(two_64)),
                        two_96: set(i64::from(two_96)),
                    }
                }

                /// x·2^-32 modulo q in (0, 2q), for x in [0, q·2^32).
                #[inline]
                #[target_feature(enable = $feature)]
                fn montgomery(&self, x: Vector) -> Vector {
                    let high = shift_right::<32>(multiply(multiply(x, self.inverse), self.q));
                    sub(add(shift_right::<32>(x), self.q), high)
                }

                /// low + high·2^32 modulo q in (0, 2q), for both below 2^62.
                #[inline]
                #[target_feature(enable = $feature)]
                fn halves(&self, low: Vector, high: Vector) -> Vector {
                    // (low·2^-32 + high)·2^-32·2^96·2^-32; the last product is below 2q·q < q·2^32.
                    let sum = self.montgomery(add(high, self.montgomery(low)));
                    self.montgomery(multiply(sum, self.two_96))
                }

                /// x modulo q in (0, 2q), for x in [0, q·2^32).
                #[inline]
                #[target_feature(enable = $feature)]
                fn narrow(&self, x: Vector) -> Vector {
                    self.montgomery(multiply(self.montgomery(x), self.two_64))
                }

                /// x + even and odd residues in [0, 2q], lane by lane.
                #[inline]
                #[target_feature(enable = $feature)]
                fn add(&self, x: Vector, even: Vector, odd: Vector) -> Vector {
                    let both = self.once(or(even, shift_left::<32>(odd)));
                    self.once(add_words(x, both))
                }

                #[inline]
                #[target_feature(enable = $feature)]
                fn once(&self, x: Vector) -> Vector {
                    min_words(x, sub_words(x, self.words))
                }
            }

            #[inline]
            #[target_feature(enable = $feature)]
            fn load(x: &[u32; LANES]) -> Vector {
                // SAFETY: the array is as long as a vector; any alignment will do.
                unsafe { load_vector(x.as_ptr().cast()) }
            }

            #[inline]
            #[target_feature(enable = $feature)]
            fn store(x: &mut [u32; LANES], v: Vector) {
                // SAFETY: as above.
                unsafe { store_vector(x.as_mut_ptr().cast(), v) }
            }
        }
    };
}

kernels!(
    avx2,
    "avx2",
    __m256i,
    8,
    fetch ahead: true,
    [
        _mm256_setzero_si256 as zero,
        _mm256_set1_epi64x as set,
        _mm256_loadu_si256 as load_vector,
        _mm256_storeu_si256 as store_vector,
        _mm256_mul_epu32 as multiply,
        _mm256_mul_epi32 as multiply_signed,
        _mm256_add_epi64 as add,
        _mm256_sub_epi64 as sub,
        _mm256_add_epi32 as add_words,
        _mm256_sub_epi32 as sub_words,
        _mm256_min_epu32 as min_words,
        _mm256_and_si256 as and,
        _mm256_or_si256 as or,
        _mm256_srli_epi64 as shift_right,
        _mm256_slli_epi64 as shift_left,
    ]
);

kernels!(
    avx512,
    "avx512f",
    __m512i,
    16,
    fetch ahead: false,
    [
        _mm512_setzero_si512 as zero,
        _mm512_set1_epi64 as set,
        _mm512_loadu_si512 as load_vector,
        _mm512_storeu_si512 as store_vector,
        _mm512_mul_epu32 as multiply,
        _mm512_mul_epi32 as multiply_signed,
        _mm512_add_epi64 as add,
        _mm512_sub_epi64 as sub,
        _mm512_add_epi32 as add_words,
        _mm512_sub_epi32 as sub_words,
        _mm512_min_epu32 as min_words,
        _mm512_and_si512 as and,
        _mm512_or_si512 as or,
        _mm512_srli_epi64 as shift_right,
        _mm512_slli_epi64 as shift_left,
    ]
);
