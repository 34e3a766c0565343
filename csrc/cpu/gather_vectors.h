// Gathering panels in whole vectors: the pixel-wise gather of gather.h for rows that are shorter than a panel is wide.
// Include only from engine.inl.h.
//
//   panel row (channel, tap):   |run 0 .......|run 1 .......|run 2 ..|      a run: one row of the image, or part of one
//   stored, in this order:      |0000000000000000|                          each store is a whole vector, and what it
//                                             |1111111111111111|            spills over the end of its run, the next
//                                                           |222222222..    store rewrites
//
// The rows of a panel follow each other in memory, channels outside and taps inside, so the last store of a row spills
// into the next, and that of a panel into the next panel or what the workspace keeps free. Where everything goes is the
// same for all channels and is found once. Reading spills as well: into what follows in the image. Channels that come
// too near to its end go the exact way. Short rows of 16 bits take a half or a quarter of a vector.
#pragma once

// Up to kLanes columns of a panel: `to` from the channel's first row, `from` from the channel's first source element
// (image: all ones) or from kZeros (none).
struct VectorPiece {
  int32_t to, image;
  int64_t from;
  static VectorPiece of(int64_t to, int64_t offset, int64_t beside) {
    return {static_cast<int32_t>(to), offset < 0 ? 0 : -1, offset < 0 ? 0 : offset + beside};
  }
  // Where the piece stands in a channel or in kZeros. Nothing foresees a branch on which of them it is, and a table of
  // the two, stored and loaded for each channel, takes a fifth longer (64 channels of 56 x 56 pixels).
  template <class A>
  const A* at(const A* channel) const {
    const auto zeros = reinterpret_cast<uintptr_t>(kZeros<A>), away = reinterpret_cast<uintptr_t>(channel) - zeros;
    return reinterpret_cast<const A*>(zeros + (away & static_cast<uintptr_t>(intptr_t{image}))) + from;
  }
};
inline constexpr int kMostVectorPieces = 1024;

// Cuts the pieces of all taps into vectors, in the order of memory. Returns how many, or -1 if they are too many.
template <class A>
int make_vector_pieces(const ImageReader<A>& image, const Block& block, const PixelRun* runs, int run_count,
                       int64_t columns, VectorPiece* to) {
  constexpr int W = kLanes<A>;
  Piece pieces[kMostPieces];
  const int32_t used = runs[run_count - 1].column + runs[run_count - 1].len;
  const int64_t step = image.region->axis[2].step * image.strides.axis[2];
  int made = 0;
  for (int64_t t = 0; t < block.taps; ++t) {
    int count = make_pieces(image, tap_at(*image.region, block.tap + t), runs, run_count, pieces);
    if (used < columns) pieces[count++] = {used, static_cast<int32_t>(columns - used), -1};
    for (int i = 0; i < count; ++i)
      for (int32_t j = 0; j < pieces[i].len; j += W) {
        if (made == kMostVectorPieces) return -1;
        to[made++] = VectorPiece::of(t * columns + pieces[i].column + j, pieces[i].offset, j * step);
      }
  }
  return made;
}

// Elements from the group's first one to the last of a block's channels.
template <class A>
int64_t image_elements(const ImageReader<A>& image, const Block& block) {
  int64_t last = (image.problem->batch - 1) * image.strides.outer;
  last += (block.channel + block.channels - 1) * image.strides.channel;
  for (int i = 0; i < kSpatialAxes; ++i) last += (image.region->axis[i].extent - 1) * image.strides.axis[i];
  return last + 1;
}

// A vector of elements kStep apart.
template <class A, int kStep>
inline Vector<A> load_every(const A* from) {
  if constexpr (kStep == 1) {
    return load(from);
  } else {
    constexpr int kHalf = kStep / 2;
    return even_lanes<A>(load_every<A, kHalf>(from), load_every<A, kHalf>(from + kHalf * kLanes<A>));
  }
}

// N elements kStep apart: a vector, or less of elements of 16 bits, of which short rows fill less.
template <int N, int kStep, class A>
inline void copy_piece(A* to, const A* from) {
  if constexpr (N == kLanes<A>) {
    store(to, load_every<A, kStep>(from));
  } else if constexpr (kStep == 1) {
    std::memcpy(to, from, N * sizeof(A));
  } else {
    copy_even_group<N>(to, from, false);
  }
}

template <int N, int kStep, class A>
void copy_vector_pieces(const A* from, int64_t from_step, A* to, int64_t to_step, int64_t channels,
                        const VectorPiece* pieces, int count) {
  for (int64_t c = 0; c < channels; ++c, from += from_step, to += to_step)
    for (const VectorPiece *p = pieces, *end = pieces + count; p < end; ++p)
      copy_piece<N, kStep>(to + p->to, p->at(from));
}
template <class A, int kStep>
void copy_vector_pieces(int64_t longest, const A* from, int64_t from_step, A* to, int64_t to_step, int64_t channels,
                        const VectorPiece* pieces, int count) {
  if constexpr (sizeof(A) == 2 && kStep <= 2) {
    if (longest <= kLanes<A> / 4)
      return copy_vector_pieces<kLanes<A> / 4, kStep>(from, from_step, to, to_step, channels, pieces, count);
    if (longest <= kLanes<A> / 2)
      return copy_vector_pieces<kLanes<A> / 2, kStep>(from, from_step, to, to_step, channels, pieces, count);
  }
  copy_vector_pieces<kLanes<A>, kStep>(from, from_step, to, to_step, channels, pieces, count);
}

// Fills a panel [channel][tap][column] as gather_pixelwise does; what follows the panel may be overwritten.
template <class A>
void gather_vectors(const ImageReader<A>& image, const Block& block, const PixelRun* runs, int run_count,
                    int64_t columns, A* to) {
  const int64_t step = image.region->axis[2].step * image.strides.axis[2], distance = image.strides.channel;
  const int64_t row = block.taps * columns;
  int64_t done = 0;
  if (!image.region->folded() && (step == 1 || step == 2 || step == 4) && distance > 0) {
    VectorPiece pieces[kMostVectorPieces];
    const int count = make_vector_pieces(image, block, runs, run_count, columns, pieces);
    int64_t farthest = 0;
    for (int i = 0; i < count; ++i) farthest = std::max(farthest, pieces[i].from);
    // Channels whose whole vectors stay inside of the image.
    const int64_t room = image_elements(image, block) - farthest - step * kLanes<A>;
    const int64_t channels = count < 0 || room < 0 ? 0 : std::min(block.channels, room / distance + 1 - block.channel);
    if (2 * channels >= block.channels) {
      const A* from = image.data + block.channel * distance;
      int64_t longest = 0;
      for (int i = 0; i < run_count; ++i) longest = std::max<int64_t>(longest, runs[i].len);
      longest = std::max(longest, columns - runs[run_count - 1].column - runs[run_count - 1].len);
      if (step == 1) {
        copy_vector_pieces<A, 1>(longest, from, distance, to, row, channels, pieces, count);
      } else if (step == 2) {
        copy_vector_pieces<A, 2>(longest, from, distance, to, row, channels, pieces, count);
      } else {
        copy_vector_pieces<A, 4>(longest, from, distance, to, row, channels, pieces, count);
      }
      done = channels;
    }
  }
  const Block rest{block.tap, block.taps, block.channel + done, block.channels - done};
  gather_pixelwise<A, A>(image, rest, runs, run_count, columns, {to + done * row, row, columns});
}

// The rows of a chunk of pixels under each tap of a region, in whole vectors as above: the pieces are listed once for
// all channels that follow.
template <class T>
class TapPieces {
 public:
  // `channels`: those that image.data and what lies behind it in memory are certain to have.
  void list(const ImageReader<T>& image, int64_t channels, const PixelRun* runs, int run_count) {
    const GatherAxis* g = image.region->axis;
    const int64_t taps = image.region->taps();
    step_ = g[2].step * image.strides.axis[2];
    room_ = -1;
    if (taps > kMostTaps || (step_ != 1 && step_ != 2)) return;
    Piece pieces[kMostPieces];
    int64_t made = 0, farthest = 0;
    for (int64_t t = 0; t < taps; ++t) {
      first_[t] = static_cast<int32_t>(made);
      const int count = make_pieces(image, tap_at(*image.region, t), runs, run_count, pieces);
      for (int i = 0; i < count; ++i)
        for (int32_t j = 0; j < pieces[i].len; j += kLanes<T>) {
          if (made == kMost) return;
          const VectorPiece piece = VectorPiece::of(pieces[i].column + j, pieces[i].offset, j * step_);
          pieces_[made++] = piece;
          farthest = std::max(farthest, piece.from);
        }
    }
    first_[taps] = static_cast<int32_t>(made);
    room_ = image_elements(image, Block{0, 0, 0, channels}) - farthest - step_ * kLanes<T>;
  }

  // Fills the rows of the block's first channels, in the order of memory, and returns the block of the others, whose
  // vectors would be read beyond the image. Less than a vector behind a row may be overwritten.
  Block gather(const ImageReader<T>& image, const Block& block, const RowTarget<T>& target) const {
    const int64_t distance = image.strides.channel;
    int64_t channels = room_ < 0 ? 0 : block.channels;
    if (distance > 0) channels = std::clamp<int64_t>(room_ / distance + 1 - block.channel, 0, channels);
    const T* from = image.data + block.channel * distance;
    for (int64_t c = 0; c < channels; ++c, from += distance)
      for (int64_t t = 0; t < block.taps; ++t) {
        T* to = target.to + c * target.channel_step + t * target.tap_step;
        if (step_ == 1) {
          copy_tap<1>(block.tap + t, from, to);
        } else {
          copy_tap<2>(block.tap + t, from, to);
        }
      }
    return {block.tap, block.taps, block.channel + channels, block.channels - channels};
  }

 private:
  static constexpr int64_t kMost = 2048, kMostTaps = 64;

  template <int kStep>
  void copy_tap(int64_t tap, const T* from, T* to) const {
    const VectorPiece* end = pieces_ + first_[tap + 1];
    for (const VectorPiece* p = pieces_ + first_[tap]; p < end; ++p)
      store(to + p->to, load_every<T, kStep>(p->at(from)));
  }

  int64_t step_ = 1;
  int64_t room_ = -1;  // elements from the end of the first channel's farthest vector to that of the image
  int32_t first_[kMostTaps + 1];
  VectorPiece pieces_[kMost];
};
