// The entries of a level's table that multiply packed panels. Include only from an engine.
#pragma once

template <class T, class A, class Product>
struct PackedKernels {
  static void pack_weight(const ConvJob& job, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) WeightPacker<T, A, Product>{job}.pack(i);
  }
  static void run_conv(const ConvJob& job, int64_t begin, int64_t end, void* workspace) {
    for (int64_t i = begin; i < end; ++i) {
      if (job.zones) {
        run_zones<T, A, Product>(job, i, static_cast<A*>(workspace));
        continue;
      }
      if constexpr (Product::kTerms == 1) {
        if (PixelRowUnit<T, A>::takes(job, i)) {
          PixelRowUnit<T, A>(job, i, static_cast<A*>(workspace)).run();
          continue;
        }
      }
      ConvUnit<T, A, Product>(job, i, static_cast<A*>(workspace)).run();
    }
  }
  static void run_wgrad(const WgradJob& job, int64_t begin, int64_t end, void* workspace) {
    for (int64_t i = begin; i < end; ++i) WgradUnit<T, A, Product>(job, i, static_cast<A*>(workspace)).run();
  }
  static void run_banded(const ConvJob& job, int64_t begin, int64_t end, void* workspace) {
    int64_t* offsets = static_cast<int64_t*>(workspace);
    BandedConv<T, A, Product> conv(job, offsets, reinterpret_cast<A*>(offsets + kReductionBlock));
    for (int64_t i = begin; i < end; ++i) conv.run(i);
  }
  static double run_full_tile(int64_t times) {
    alignas(64) A a[kReductionBlock * kTileRows] = {}, b[kReductionBlock * kTileColumns<A>] = {};
    alignas(64) A c[kTileRows * kTileColumns<A>];
    for (int64_t i = 0; i < times; ++i) {
      multiply<A, false, Product>(kTileRows, {kReductionBlock, a, b, c, kTileColumns<A>, TileStart::kZero, nullptr});
      asm volatile("" : : "r"(a), "r"(b), "r"(c) : "memory");  // or the compiler would see that nobody asks
    }
    return 2.0 * Product::kTerms * kReductionBlock * kTileRows * kTileColumns<A> * static_cast<double>(times);
  }
};
