// fprop and dgrad in zones (zones_of): a unit is a part of each zone's pixels times some panels of the weight. Include
// only from engine.inl.h.
//
//   for each chunk of channels, each tap:         its panels of the weight pass through L2 once
//     for each zone that reads the tap:
//       gather the zone's pixels, multiply, add   the sums of all zones stay in L2 as well
//
// The order of a zone's blocks, and so every bit, is that of its reduction: chunks of channels, and the taps of each.
#pragma once

template <class T, class A, class Product>
void run_zones(const ConvJob& job, int64_t index, A* workspace) {
  const int64_t channel_block = index % job.channel_blocks();
  index /= job.channel_blocks();
  const int64_t part = index % job.zone_parts, group = index / job.zone_parts;
  const int64_t first_panel = channel_block * job.shape.panels;
  const int64_t panels = std::min(job.shape.panels, job.weight_panels() - first_panel);
  const auto for_each_zone = [&](auto visit) {
    int64_t before = 0;
    for (const RegionJob& zone : job.wave) {
      const int64_t first = part * zone.pixels / job.zone_parts, last = (part + 1) * zone.pixels / job.zone_parts;
      if (first < last) {
        ConvUnit<T, A, Product> unit(job, {&zone, group, first, last - first, first_panel, panels, before}, workspace);
        visit(zone, unit);
      }
      before += last - first;
    }
  };
  const ConvAxis* kernel = job.problem->axis;
  const int64_t chunks = Reduction::by_tap(1, job.panel_depth).blocks();
  for (int64_t chunk = 0; chunk < chunks; ++chunk)
    for (int64_t d = 0; d < kernel[0].kernel; ++d)
      for (int64_t h = 0; h < kernel[1].kernel; ++h)
        for (int64_t w = 0; w < kernel[2].kernel; ++w)
          for_each_zone([&](const RegionJob& zone, auto& unit) {
            const int64_t tap = zone_tap(*zone.region, {{d, h, w}});
            if (tap >= 0) unit.run_block(chunk * zone.region->taps() + tap);
          });
  for_each_zone([&](const RegionJob& zone, auto& unit) {  // nothing but the bias
    if (zone.region->taps() == 0) unit.run_block(0);
  });
}
