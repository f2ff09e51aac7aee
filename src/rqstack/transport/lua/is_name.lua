-- Whether an id or a queue's name can be in a lease, and is UTF-8: one that is not, workers could not read.
local function is_name(text)
  if #text > 1000 then return false end
  if not string.find(text, '[%z\128-\255]') then return true end
  local rest = text
  for _, character in ipairs({'[\194-\223][\128-\191]', '\224[\160-\191][\128-\191]', '\237[\128-\159][\128-\191]',
    '[\225-\236\238\239][\128-\191][\128-\191]', '\240[\144-\191][\128-\191][\128-\191]',
    '[\241-\243][\128-\191][\128-\191][\128-\191]', '\244[\128-\143][\128-\191][\128-\191]'}) do
    rest = string.gsub(rest, character, ' ')
  end
  return not string.find(rest, '[%z\128-\255]')
end
