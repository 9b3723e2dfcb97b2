// What is remembered of the accesses to each two bytes, and which next access is a race.
//
// Time is a number that grows at every launch, block and block barrier; blocks run one after the other, so the time of an access alone
// tells whether it was made in another launch (ordered), another block of this one (never ordered), before a barrier of this block
// (ordered) or after it, where only barriers of a warp order accesses of its threads. Nothing has to be cleared.
#pragma once

#include <cstddef>
#include <cstdint>

// Kernels with elements of one byte would need one: neighbours in a cell are taken for one place.
constexpr size_t CELL_BYTES = 2;

// Time (32 bits), thread (10), warp barriers since the time began (19), marks (3).
class Access {
public:
    // Of reads: by several threads since the warp's barrier, by several warps since the block's, by another block of the launch.
    enum Mark : uint64_t { THREADS = 1, WARPS = 2, BLOCKS = 4 };

    static Access make(uint32_t time, uint32_t thread, uint32_t step) {
        const uint64_t kept_step = step < STEP_LIMIT ? step : STEP_LIMIT;
        return Access{(static_cast<uint64_t>(time) << 32) | (static_cast<uint64_t>(thread) << 22) | (kept_step << 3)};
    }
    uint32_t time() const { return static_cast<uint32_t>(bits >> 32); }
    uint32_t thread() const { return static_cast<uint32_t>(bits >> 22) & 1023u; }
    uint32_t warp() const { return thread() / 32; }
    uint32_t step() const { return static_cast<uint32_t>(bits >> 3) & STEP_LIMIT; }
    bool has(Mark mark) const { return (bits & mark) != 0; }
    Access with(uint64_t marks) const { return Access{bits | marks}; }

    uint64_t bits;

private:
    static constexpr uint32_t STEP_LIMIT = (1u << 19) - 1;
};

struct Cell {
    Access read;
    Access write;
};

// When the running thread makes its access.
struct Moment {
    Access now;
    uint32_t launch_began;
    uint32_t block_began;
};

enum class Verdict { FINE, RACE_IN_BLOCK, RACE_OF_BLOCKS };

// The last access `before` and that of the running thread, at least one writing.
inline Verdict conflict(Access before, const Moment& moment) {
    if (before.time() < moment.launch_began) {
        return Verdict::FINE;
    }
    if (before.time() < moment.block_began) {
        return Verdict::RACE_OF_BLOCKS;
    }
    if (before.time() < moment.now.time() || before.thread() == moment.now.thread()) {
        return Verdict::FINE;
    }
    const bool ordered = before.warp() == moment.now.warp() && before.step() < moment.now.step();
    return ordered ? Verdict::FINE : Verdict::RACE_IN_BLOCK;
}

inline Verdict on_read(Cell& cell, const Moment& moment) {
    const Verdict verdict = conflict(cell.write, moment);
    const Access now = moment.now, before = cell.read;
    uint64_t marks = 0;
    if (before.bits == now.bits) {
        return verdict;
    }
    if (before.time() == now.time()) {
        const bool same_step = before.warp() == now.warp() && before.step() == now.step();
        marks |= before.bits & (Access::WARPS | Access::BLOCKS);
        marks |= before.warp() != now.warp() ? static_cast<uint64_t>(Access::WARPS) : 0;
        marks |= same_step ? before.bits & Access::THREADS : 0;
        marks |= same_step && before.thread() != now.thread() ? static_cast<uint64_t>(Access::THREADS) : 0;
    } else if (before.time() >= moment.launch_began) {
        const bool other_block = before.time() < moment.block_began || before.has(Access::BLOCKS);
        marks |= other_block ? static_cast<uint64_t>(Access::BLOCKS) : 0;
    }
    cell.read = now.with(marks);
    return verdict;
}

inline Verdict on_write(Cell& cell, const Moment& moment) {
    const Verdict after_write = conflict(cell.write, moment);
    const Access now = moment.now, read = cell.read;
    cell.write = now;
    if (after_write != Verdict::FINE) {
        return after_write;
    }
    if (read.time() >= moment.launch_began && read.has(Access::BLOCKS)) {
        return Verdict::RACE_OF_BLOCKS;
    }
    if (read.time() == now.time()) {
        const bool same_step = read.warp() == now.warp() && read.step() == now.step();
        if (read.has(Access::WARPS) || (read.has(Access::THREADS) && same_step)) {
            return Verdict::RACE_IN_BLOCK;
        }
    }
    return conflict(read, moment);
}
