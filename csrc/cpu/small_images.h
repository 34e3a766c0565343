// Gathering images that two vectors hold: 7 x 7, 8 x 8 or 4 x 4 x 4 pixels of 16 bits. Include only from an engine.
//
//   a channel's pixels, as they lie:     |0 1 2 .. 31|32 33 .. 48 ..|
//   panel row (channel, tap):            |  .  0 1 2 3 4 5  .  7 8 ..|       . is padding
//
// Rows of 4 or 7 pixels make a dozen pieces of a panel's row (gather_vectors.h), a copy each. Which pixel goes where is
// the same for all channels, so a row is one permutation of both vectors, whatever the stride, dilation or padding.
#pragma once

template <class Product>
class SmallImages {
 public:
  // Lists where the columns of up to kTaps taps come from; false if the pixels are not of one image that fits.
  bool list(const ImageReader<uint16_t>& image, const Block& block, const PixelRun* runs, int run_count) {
    const PixelRun& last = runs[run_count - 1];
    if (block.taps > kTaps || last.column + last.len > kColumns || runs[0].n != last.n) return false;
    int64_t farthest = 0;
    for (int i = 0; i < kSpatialAxes; ++i) farthest += (image.region->axis[i].extent - 1) * image.strides.axis[i];
    if (farthest >= Product::kReach || image.strides.channel <= 0) return false;
    pixels_ = farthest + 1, first_ = last.n * image.strides.outer;
    const int64_t step = image.region->axis[2].step * image.strides.axis[2];
    Piece pieces[kMostPieces];
    for (int64_t t = 0; t < block.taps; ++t) {
      const int made = make_pieces(image, tap_at(*image.region, block.tap + t), runs, run_count, pieces);
      uint16_t index[kColumns] = {};
      reads_[t] = 0;
      for (int i = 0; i < made; ++i) {
        if (pieces[i].offset < 0) continue;
        for (int32_t j = 0; j < pieces[i].len; ++j) {
          index[pieces[i].column + j] = static_cast<uint16_t>(pieces[i].offset - first_ + j * step);
          reads_[t] |= uint32_t{1} << (pieces[i].column + j);
        }
      }
      std::memcpy(&index_[t], index, sizeof index);
    }
    return true;
  }

  // Fills rows [channel][tap] of `columns` each; less than a vector behind the last may be overwritten.
  void gather(const ImageReader<uint16_t>& image, const Block& block, int64_t columns, uint16_t* to) const {
    const int64_t all = image_elements(image, block);
    for (int64_t c = 0; c < block.channels; ++c) {
      const int64_t from = first_ + (block.channel + c) * image.strides.channel;
      const uint16_t* pixels = image.data + from;
      uint16_t copy[Product::kReach];  // of the last ones, behind which nothing may be read
      if (from + Product::kReach > all) {
        std::copy_n(pixels, pixels_, copy);
        std::fill(copy + pixels_, copy + Product::kReach, uint16_t{0});
        pixels = copy;
      }
      for (int64_t t = 0; t < block.taps; ++t, to += columns) {
        const auto row = Product::pick_or_zero(pixels, index_[t], reads_[t]);
        std::memcpy(to, &row, sizeof row);
      }
    }
  }

 private:
  static constexpr int kColumns = kLanes<uint16_t>;
  static constexpr int64_t kTaps = 64;

  int64_t pixels_ = 0;  // of a channel, with what is between them
  int64_t first_ = 0;   // the image's first element
  uint32_t reads_[kTaps];
  Vector<uint16_t> index_[kTaps];
};
