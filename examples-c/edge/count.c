/* A plugin for QEMU that counts how often the board executes each block of instructions, for scripts/edge-profile.
 *
 *   -plugin count.so,out=FILE,mark=ADDRESS,mark=ADDRESS...
 *
 * A mark is an instruction at which a new part of the run begins: what was counted is written and counting starts anew. FILE has
 * a line `mark ADDRESS` for each part but the first, and then for each block a line of hexadecimal numbers: how often it was executed, and
 * the addresses of its instructions.
 *
 * The declarations are those of version 1 of QEMU's plugin interface, whose header Debian's package lacks. */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define MOST_MARKS 16
#define ADD_U64 0
#define NO_REGISTERS 0

struct qemu_plugin_tb;
struct qemu_plugin_insn;
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*call)(uint64_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*call)(unsigned, void *), int flags, void *);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int operation, void *counter, uint64_t by);
void qemu_plugin_register_atexit_cb(uint64_t id, void (*call)(uint64_t, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);

EXPORT int qemu_plugin_version = 1;

/* A block as it was translated. One that is translated anew is another one, with the same addresses. */
struct block {
    struct block *next;
    uint64_t count;
    size_t instructions;
    uint32_t addresses[];
};

static struct block *blocks;
static uint32_t marks[MOST_MARKS];
static size_t mark_count;
static FILE *out;

static void write_counts(void)
{
    for (struct block *block = blocks; block; block = block->next) {
        if (!block->count) {
            continue;
        }
        fprintf(out, "%" PRIx64, block->count);
        for (size_t i = 0; i < block->instructions; i++) {
            fprintf(out, " %" PRIx32, block->addresses[i]);
        }
        fputc('\n', out);
        block->count = 0;
    }
}

static void at_mark(unsigned processor, void *mark)
{
    (void)processor;
    write_counts();
    fprintf(out, "mark %" PRIx32 "\n", *(const uint32_t *)mark);
}

static void at_translation(uint64_t id, struct qemu_plugin_tb *tb)
{
    size_t count = qemu_plugin_tb_n_insns(tb);
    struct block *block = calloc(1, sizeof *block + count * sizeof block->addresses[0]);
    (void)id;
    if (!block) {
        abort();
    }
    block->instructions = count;
    for (size_t i = 0; i < count; i++) {
        block->addresses[i] = (uint32_t)qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, i));
    }
    block->next = blocks;
    blocks = block;
    for (size_t i = 0; i < mark_count; i++) {
        if (count && block->addresses[0] == marks[i]) {
            qemu_plugin_register_vcpu_tb_exec_cb(tb, at_mark, NO_REGISTERS, &marks[i]);
        }
    }
    qemu_plugin_register_vcpu_tb_exec_inline(tb, ADD_U64, &block->count, 1);
}

static void at_end(uint64_t id, void *unused)
{
    (void)id;
    (void)unused;
    write_counts();
    fclose(out);
}

EXPORT int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "out=", 4)) {
            out = fopen(argv[i] + 4, "w");
        } else if (!strncmp(argv[i], "mark=", 5) && mark_count < MOST_MARKS) {
            marks[mark_count++] = (uint32_t)strtoul(argv[i] + 5, NULL, 16);
        } else {
            fprintf(stderr, "count: expected out=FILE or mark=ADDRESS, got %s\n", argv[i]);
            return -1;
        }
    }
    if (!out) {
        fputs("count: expected out=FILE that can be written, got none\n", stderr);
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, at_translation);
    qemu_plugin_register_atexit_cb(id, at_end, NULL);
    return 0;
}
