-- Set ARGV[4] and ARGV[5] to now: the function set_clock of claim.lua.
--
-- seconds, micros  as TIME returns them

-- The date by Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days: years begin in March.
local floor = math.floor
local days, left = floor(seconds / 86400) + 719468, seconds % 86400
local era = floor(days / 146097)
local day_of_era = days - era * 146097
local year_of_era = floor(
  (day_of_era - floor(day_of_era / 1460) + floor(day_of_era / 36524) - floor(day_of_era / 146096)) / 365)
local day_of_year = day_of_era - (365 * year_of_era + floor(year_of_era / 4) - floor(year_of_era / 100))
local shifted = floor((5 * day_of_year + 2) / 153)
local month = shifted < 10 and shifted + 3 or shifted - 9
ARGV[4] = string.format('%04d-%02d-%02dT%02d:%02d:%02d.%06dZ', era * 400 + year_of_era + (month <= 2 and 1 or 0), month,
  day_of_year - floor((153 * shifted + 2) / 5) + 1, floor(left / 3600), floor(left / 60) % 60, left % 60, micros)
ARGV[5] = string.format('%d.%06d', seconds, micros)
