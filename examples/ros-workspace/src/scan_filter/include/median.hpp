#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

/// The median of each value and those beside it, `reach` to each side.
inline std::vector<float> median(const std::vector<float>& values, std::size_t reach) {
  std::vector<float> out;
  out.reserve(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::size_t begin = i < reach ? 0 : i - reach;
    const std::size_t end = std::min(values.size(), i + reach + 1);
    std::vector<float> window(values.begin() + begin, values.begin() + end);
    auto middle = window.begin() + window.size() / 2;
    std::nth_element(window.begin(), middle, window.end());
    out.push_back(*middle);
  }
  return out;
}
