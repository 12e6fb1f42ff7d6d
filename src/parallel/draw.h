// Pictures of a timeline, simulated or measured: SVG for reading, Chrome's trace format for looking
// closely (chrome://tracing, Perfetto).
#pragma once

#include <string>
#include <vector>

#include "parallel/simulate.h"
#include "runtime/zones.h"

namespace fathom {

using ZonesByRank = std::vector<std::vector<Zone>>;

// `parts`, where given, are drawn below each rank's operations: attention, dispatch, MLP and
// combine of the micro-batches in them, and how long each waits for rows.
std::string timeline_svg(const Timeline& timeline, const std::string& title,
                         const ZonesByRank& parts = {});
// `microseconds_per_unit`: what one unit of the timeline's time is.
std::string timeline_trace_json(const Timeline& timeline, double microseconds_per_unit,
                                const ZonesByRank& parts = {});

}  // namespace fathom
