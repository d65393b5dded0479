#compdef msb-sync
# Completions of msb-sync for zsh. The program itself says what may follow.
_msb_sync() {
    local program=${(Q)words[1]} line value
    local -a before lines whole open
    (( $+commands[$program] )) || [[ -x $program ]] || program=msb-sync
    before=("${(@Q)words[1,CURRENT-1]}")
    lines=("${(@f)$("$program" __complete zsh -- "${before[@]}" "${(Q)PREFIX}" 2>/dev/null)}")
    for line in $lines; do
        value=${${line%%$'\t'*}//:/\\:}
        [[ $line == *$'\t'* ]] && line="$value:${line#*$'\t'}" || line=$value
        [[ $value == *[/=:@] ]] && open+=("$line") || whole+=("$line")
    done
    (( $#open )) && _describe -V msb-sync open -S ''
    (( $#whole )) && _describe -V msb-sync whole
}
# The file is loaded as a function of this name, or read by a shell that starts.
if [[ $funcstack[1] == _msb-sync ]]; then
    _msb_sync "$@"
else
    compdef _msb_sync msb-sync
fi
