# Completions of msb-sync for fish. The program itself says what may follow.
function __msb_sync_complete
    set -l words (commandline --current-process --tokenize --cut-at-cursor)
    set -l program $words[1]
    type --query --no-functions $program; or set program msb-sync
    $program __complete fish -- $words (commandline --current-token --cut-at-cursor) 2>/dev/null
end
complete --command msb-sync --no-files --keep-order --arguments '(__msb_sync_complete)'
