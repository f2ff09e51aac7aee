"""Named cron expressions for common times, and durations in seconds."""

from __future__ import annotations

EVERY_SECOND = "* * * * * *"
EVERY_TEN_SECONDS = "* * * * * */10"
EVERY_THIRTY_SECONDS = "* * * * * */30"

EVERY_MINUTE = "* * * * *"
EVERY_TWO_MINUTES = "*/2 * * * *"
EVERY_FIVE_MINUTES = "*/5 * * * *"
EVERY_TEN_MINUTES = "*/10 * * * *"
EVERY_FIFTEEN_MINUTES = "*/15 * * * *"
EVERY_TWENTY_MINUTES = "*/20 * * * *"
EVERY_THIRTY_MINUTES = "*/30 * * * *"

EVERY_HOUR = "0 * * * *"
EVERY_TWO_HOURS = "0 */2 * * *"
EVERY_THREE_HOURS = "0 */3 * * *"
EVERY_FOUR_HOURS = "0 */4 * * *"
EVERY_SIX_HOURS = "0 */6 * * *"
EVERY_EIGHT_HOURS = "0 */8 * * *"
EVERY_TWELVE_HOURS = "0 */12 * * *"

EVERY_MIDNIGHT = "0 0 * * *"
EVERY_ONE_AM = "0 1 * * *"
EVERY_TWO_AM = "0 2 * * *"
EVERY_THREE_AM = "0 3 * * *"
EVERY_FOUR_AM = "0 4 * * *"
EVERY_FIVE_AM = "0 5 * * *"
EVERY_SIX_AM = "0 6 * * *"
EVERY_SEVEN_AM = "0 7 * * *"
EVERY_EIGHT_AM = "0 8 * * *"
EVERY_NINE_AM = "0 9 * * *"
EVERY_TEN_AM = "0 10 * * *"
EVERY_ELEVEN_AM = "0 11 * * *"
EVERY_NOON = "0 12 * * *"
EVERY_SIX_PM = "0 18 * * *"
EVERY_NINE_PM = "0 21 * * *"

EVERY_WEEKDAY_AT_EIGHT_AM = "0 8 * * 1-5"
EVERY_MONDAY = "0 0 * * 1"
EVERY_FRIDAY = "0 0 * * 5"
EVERY_SATURDAY = "0 0 * * 6"
EVERY_SUNDAY = "0 0 * * 0"
EVERY_MONTH = "0 0 1 * *"
EVERY_QUARTER = "0 0 1 */3 *"
EVERY_YEAR = "0 0 1 1 *"

HALF_DAY_IN_SECONDS = 43_200
ONE_HOUR_IN_SECONDS = 3_600
THREE_MINUTES_IN_SECONDS = 180
