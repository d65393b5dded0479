# Completions of msb-sync for bash. The program itself says what may follow.
#
# Readline splits words at colons, equals signs and ats, which references have: the words are put
# together again, and of each candidate only the part is given back that readline asks for.
_msb_sync() {
    local rest=${COMP_LINE:0:COMP_POINT} word next index cut='' program=$1
    local -a words=()
    for ((index = 0; index <= COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        next=${rest#"${rest%%[![:space:]]*}"}
        [[ $index -eq $COMP_CWORD ]] && word=$next
        if [[ $index -gt 0 && $next == "$rest" ]]; then
            words[${#words[@]}-1]+=$word
        else
            words+=("$word")
        fi
        rest=${next#"$word"}
    done
    word=${words[${#words[@]}-1]}
    local breaks=${COMP_WORDBREAKS//[^:=@]/}
    if [[ -z $COMP_LINE ]]; then
        # Somebody else than readline asks, with whole words.
        words=("${COMP_WORDS[@]:0:COMP_CWORD+1}")
        word=${words[COMP_CWORD]}
    elif [[ -n $breaks && $word != [\"\']* ]]; then
        # An at begins the part that readline asks for; the others end the part before.
        cut=${word%"${word##*[$breaks]}"}
        cut=${cut%@}
    fi
    type -P -- "$program" >/dev/null || program=msb-sync
    mapfile -t COMPREPLY < <("$program" __complete bash -- "${words[@]//[\\\"\']/}" 2>/dev/null)
    COMPREPLY=("${COMPREPLY[@]#"$cut"}")
    for index in "${!COMPREPLY[@]}"; do
        if [[ $word != [\"\']* && ${COMPREPLY[index]} == *[!A-Za-z0-9/._~:=@%+,-]* ]]; then
            printf -v "COMPREPLY[index]" %q "${COMPREPLY[index]}"
        fi
    done
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[/=:@] ]]; then
        compopt -o nospace
    fi
}
complete -o nosort -F _msb_sync msb-sync 2>/dev/null || complete -F _msb_sync msb-sync
