//! The rounds of ChaCha in registers, for 32-bit Arm with Thumb-2 (Cortex-M3 and above, Cortex-A).
//!
//! Of the sixteen words fourteen are in registers: the rows a, b and d, and two of row c, since half a round needs two of them. Rotations are those of operands: words
//! of the rows b and d lag behind, as in the portable form. Compilers keep half of the words in memory and take nearly twice as many instructions.

use core::arch::naked_asm;

/// Two quarter rounds side by side. The rotations, to the right, of the eight steps follow the registers.
macro_rules! quarters {
    ($a:literal $b:literal $c:literal $d:literal, $e:literal $f:literal $g:literal $h:literal,
     $s1:literal $s2:literal $s3:literal $s4:literal $s5:literal $s6:literal $s7:literal $s8:literal) => {
        concat!(
            step!("add" $a $b $s1, $e $f), step!("eor" $d $a $s2, $h $e),
            step!("add" $c $d $s3, $g $h), step!("eor" $b $c $s4, $f $g),
            step!("add" $a $b $s5, $e $f), step!("eor" $d $a $s6, $h $e),
            step!("add" $c $d $s7, $g $h), step!("eor" $b $c $s8, $f $g),
        )
    };
}

/// One step of both quarter rounds.
macro_rules! step {
    ($op:literal $a:literal $b:literal $by:literal, $c:literal $d:literal) => {
        concat!(
            $op, " ", $a, ", ", $a, ", ", $b, $by, "\n", //
            $op, " ", $c, ", ", $c, ", ", $d, $by, "\n",
        )
    };
}

/// A round on columns and one on diagonals, the rotations of each in brackets. Row c is in r8 and r9 by halves: the first one before and after, at [sp] meanwhile;
/// the second one at [sp, #8] before and after.
macro_rules! double_round {
    ([$($column:literal)*] [$($diagonal:literal)*]) => {
        concat!(
            quarters!("r0" "r4" "r8" "r10", "r1" "r5" "r9" "r11", $($column)*),
            "strd r8, r9, [sp]\n",
            "ldrd r8, r9, [sp, #8]\n",
            quarters!("r2" "r6" "r8" "r12", "r3" "r7" "r9" "lr", $($column)*),
            quarters!("r0" "r5" "r8" "lr", "r1" "r6" "r9" "r10", $($diagonal)*),
            "strd r8, r9, [sp, #8]\n",
            "ldrd r8, r9, [sp]\n",
            quarters!("r2" "r7" "r8" "r11", "r3" "r4" "r9" "r12", $($diagonal)*),
        )
    };
}

/// Does four rounds on the words, `count` times.
///
/// # Safety
/// `words` may be read and written; `count` is not zero.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn four_rounds(words: *mut [u32; 16], count: u32) {
    naked_asm!(
        "push {{r4-r11, lr}}",
        "sub sp, sp, #28",
        "strd r0, r1, [sp, #16]",
        "ldrd r2, r3, [r0, #40]",
        "strd r2, r3, [sp, #8]",
        "ldrd r8, r9, [r0, #32]",
        "add r10, r0, #48",
        "ldm r10, {{r10, r11, r12, lr}}",
        "ldm r0, {{r0-r7}}",
        "2:",
        double_round!(
            ["" "" ", ror #16" "" ", ror #20" ", ror #16" ", ror #8" ", ror #12"]
            [", ror #13" ", ror #24" ", ror #24" ", ror #19" ", ror #1" ", ror #8" ", ror #16" ", ror #31"]
        ),
        double_round!(
            [", ror #26" ", ror #16" "" ", ror #6" ", ror #14" "" ", ror #24" ", ror #18"]
            [", ror #7" ", ror #8" ", ror #8" ", ror #25" ", ror #27" ", ror #24" "" ", ror #5"]
        ),
        // Four rounds turn d by three times 32, and b by 76.
        "ror r4, r4, #20",
        "ror r5, r5, #20",
        "ror r6, r6, #20",
        "ror r7, r7, #20",
        // No register is left to count in.
        "str r8, [sp]",
        "ldr r8, [sp, #20]",
        "subs r8, r8, #1",
        "str r8, [sp, #20]",
        "ldr r8, [sp]",
        "bne 2b",
        "ldr r8, [sp, #16]",
        "stm r8, {{r0-r7}}",
        "ldr r0, [sp]",
        "str r0, [r8, #32]",
        "str r9, [r8, #36]",
        "ldrd r0, r1, [sp, #8]",
        "strd r0, r1, [r8, #40]",
        "add r8, r8, #48",
        "stm r8, {{r10, r11, r12, lr}}",
        // Secrets on the stack.
        "mov r0, #0",
        "mov r1, #0",
        "strd r0, r1, [sp]",
        "strd r0, r1, [sp, #8]",
        "add sp, sp, #28",
        "pop {{r4-r11, pc}}",
    )
}
