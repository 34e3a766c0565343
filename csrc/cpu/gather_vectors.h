// Gathering panels in whole vectors: the pixel-wise gather of gather.h for rows that are shorter than a panel is wide.
// Include only from engine.inl.h.
//
//   panel row (channel, tap):   |run 0 .......|run 1 .......|run 2 ..|      a run: one row of the image, or part of one
//   stored, in this order:      |0000000000000000|                          each store is a whole vector, and what it
//                                             |1111111111111111|            spills over the end of its run, the next
//                                                           |222222222..    store rewrites
//
// The rows of a panel follow each other in memory, channels outside and taps inside, so the last store of a row spills
// into the next. Where everything goes is the same for all channels and is found once. Reading spills as well: into the
// channels that follow. The last channels have none and go the exact way.
#pragma once

// Up to kLanes columns of a panel: `to` from the channel's first row, `from` from the channel's first source element,
// or negative for zeros.
struct VectorPiece {
  int32_t to;
  int64_t from;
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
        to[made++] = {static_cast<int32_t>(t * columns) + pieces[i].column + j,
                      pieces[i].offset < 0 ? -1 : pieces[i].offset + j * step};
      }
  }
  return made;
}

template <class A, int kStep>
void copy_vector_pieces(const A* from, int64_t from_step, A* to, int64_t to_step, int64_t channels,
                        const VectorPiece* pieces, int count) {
  const Vector<A> zero = {};
  for (int64_t c = 0; c < channels; ++c, from += from_step, to += to_step)
    for (const VectorPiece *p = pieces, *end = pieces + count; p < end; ++p) {
      if (p->from < 0) {
        store(to + p->to, zero);
      } else if constexpr (kStep == 1) {
        store(to + p->to, load(from + p->from));
      } else {
        store(to + p->to, even_lanes<A>(load(from + p->from), load(from + p->from + kLanes<A>)));
      }
    }
}

// Fills a panel [channel][tap][column] as gather_pixelwise does.
template <class A>
void gather_vectors(const ImageReader<A>& image, const Block& block, const PixelRun* runs, int run_count,
                    int64_t columns, A* to) {
  constexpr int64_t kSpill = 2 * kLanes<A>;
  const int64_t step = image.region->axis[2].step * image.strides.axis[2], distance = image.strides.channel;
  const int64_t row = block.taps * columns;
  // As many channels must follow as a store or a load may spill over.
  const int64_t exact = distance > 0 ? std::max(divide_up(kSpill, row), divide_up(kSpill, distance)) : block.channels;
  const int64_t channels = image.region->folded() || step < 1 || step > 2 ? 0 : block.channels - exact;
  int64_t done = 0;
  if (2 * channels >= block.channels) {
    VectorPiece pieces[kMostVectorPieces];
    const int count = make_vector_pieces(image, block, runs, run_count, columns, pieces);
    if (count > 0) {
      const A* from = image.data + block.channel * distance;
      if (step == 1) {
        copy_vector_pieces<A, 1>(from, distance, to, row, channels, pieces, count);
      } else {
        copy_vector_pieces<A, 2>(from, distance, to, row, channels, pieces, count);
      }
      done = channels;
    }
  }
  const Block rest{block.tap, block.taps, block.channel + done, block.channels - done};
  gather_pixelwise<A, A>(image, rest, runs, run_count, columns, {to + done * row, row, columns});
}
