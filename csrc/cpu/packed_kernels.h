// The entries of a level's table that multiply packed panels. Include only from an engine.
#pragma once

template <class T, class A, class Product>
struct PackedKernels {
  static void pack_weight(const ConvJob& job, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) WeightPacker<T, A, Product>{job}.pack(i);
  }
  // Weights of all regions up to which L2 holds them beside what a unit touches.
  static constexpr int64_t kMostSharedWeightBytes = 768 << 10;

  // Whether the regions of a wave take turns: phases of a transposed convolution read the same image, and where they
  // differ in their taps a thread that got the last of them would work longest.
  static bool regions_take_turns(const ConvJob& job) {
    const int64_t regions = static_cast<int64_t>(job.wave.size());
    if (regions == 1) return false;
    int64_t length = 0;
    bool alike = true;
    for (int64_t r = 0; r < regions; ++r) {
      const RegionJob& region = job.wave[static_cast<std::size_t>(r)];
      if (region.first_unit * regions != r * job.unit_count) return false;  // not as many units as the others
      length += region.reduction.length();
      alike = alike && region.reduction.length() == job.wave.front().reduction.length();
    }
    return !alike ||
           job.problem->groups * job.rows * length * static_cast<int64_t>(sizeof(A)) <= kMostSharedWeightBytes;
  }
  static void run_conv(const ConvJob& job, int64_t begin, int64_t end, void* workspace) {
    const bool take_turns = !job.zones && regions_take_turns(job);
    const int64_t regions = static_cast<int64_t>(job.wave.size()), units = job.unit_count / regions;
    for (int64_t turn = begin; turn < end; ++turn) {
      const int64_t i = take_turns ? turn % regions * units + turn / regions : turn;
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
  static void run_col2im(const ConvJob& job, const Col2imShape& shape, int64_t begin, int64_t end, void* workspace) {
    Col2imConv<T, A, Product> conv(job, shape, static_cast<A*>(workspace));
    for (int64_t i = begin; i < end; ++i) conv.run(i);
  }
  static void run_inner_product(const ConvJob& job, int64_t begin, int64_t end, void* workspace) {
    InnerProduct<T, A, Product> product(job, workspace);
    for (int64_t i = begin; i < end; ++i) product.run(i);
  }
  static void run_correlation_wgrad(const WgradJob& job, int64_t begin, int64_t end, void* workspace) {
    CorrelationWgrad<T, A, Product> wgrad(job, static_cast<std::byte*>(workspace));
    for (int64_t i = begin; i < end; ++i) wgrad.run(i);
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
