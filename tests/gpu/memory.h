// The allocations of the emulated device, each with a shadow of cells.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "races.h"

struct Allocation {
    uintptr_t base;
    uintptr_t end;
    Cell* shadow;  // zeroed pages that cost nothing until a checked kernel comes by; null when they were refused

    size_t shadow_bytes() const { return ((end - base + CELL_BYTES - 1) / CELL_BYTES) * sizeof(Cell); }
};

class Memory {
public:
    void add(uintptr_t base, size_t bytes) {
        if (bytes == 0) {
            return;
        }
        Allocation added{base, base + bytes, nullptr};
        void* shadow = mmap(nullptr, added.shadow_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        added.shadow = shadow == MAP_FAILED ? nullptr : static_cast<Cell*>(shadow);
        all_.insert(behind(base), added);
        last_ = 0;
    }

    void remove(uintptr_t base) {
        const auto next = behind(base);
        if (next == all_.begin() || (next - 1)->base != base) {
            return;
        }
        const auto found = next - 1;
        if (found->shadow != nullptr) {
            munmap(found->shadow, found->shadow_bytes());
        }
        all_.erase(found);
        last_ = 0;
    }

    // The allocation that starts at or before `address` and is the nearest, or null.
    const Allocation* near(uintptr_t address) {
        if (last_ < all_.size() && address - all_[last_].base < all_[last_].end - all_[last_].base) {
            return &all_[last_];
        }
        return search(address);
    }

private:
    __attribute__((noinline)) const Allocation* search(uintptr_t address) {
        const auto next = behind(address);
        if (next == all_.begin()) {
            return nullptr;
        }
        last_ = static_cast<size_t>(next - all_.begin()) - 1;
        return &all_[last_];
    }

    std::vector<Allocation>::iterator behind(uintptr_t address) {
        return std::upper_bound(all_.begin(), all_.end(), address, [](uintptr_t a, const Allocation& b) { return a < b.base; });
    }

    std::vector<Allocation> all_;  // by address
    size_t last_ = 0;
};
