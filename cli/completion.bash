# Bash completion of backfill(1).  Words come from the command itself.
#
# Names of disks, domains and files are other people's: they are never handed
# to `compgen -W`, which runs what is in them.  They are quoted here, as readline
# does not get all of it right; but not where the current word begins with a
# quote: there readline does it, as for names of files.
# SPDX-License-Identifier: LGPL-2.1-or-later

# _backfill_add END: add those words of standard input, each ended by END (''
# is a NUL), that begin as the current word does.
_backfill_add ()
{
    local word begin=${cur//\\/} quote=yes

    compopt -o filenames
    if [[ $cur == [\'\"]* ]]; then
        begin=${begin:1}
        quote=
    else
        compopt -o noquote
    fi
    while IFS= read -r -d "$1" word; do
        if [[ -n $word && $word == "$begin"* ]]; then
            [ -z "$quote" ] || printf -v word %q "$word"
            COMPREPLY+=("$word")
        fi
    done
}

_backfill ()
{
    local cur prev word command='' domain='' i
    local -a call=("${COMP_WORDS[0]}")

    cur=${COMP_WORDS[COMP_CWORD]}
    prev=${COMP_WORDS[COMP_CWORD-1]}
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
            -c|--control)
                i=$((i + 1))
                call+=(-c "${COMP_WORDS[i]}")
                ;;
            --domain)
                i=$((i + 1))
                domain=${COMP_WORDS[i]}
                ;;
            --pool|--volume|--connect)
                i=$((i + 1))
                ;;
            -*) ;;
            *)
                # Of a domain the disk may come before the command.
                if [ -z "$command" ] &&
                    { [ -z "$domain" ] ||
                          "${COMP_WORDS[0]}" --list-commands 2>/dev/null |
                              grep -qxF -- "$word"; }; then
                    command=$word
                fi
                ;;
        esac
    done

    case $prev in
        -c|--control|--svg)
            _backfill_add $'\n' < <(compgen -f -- "$cur")
            return
            ;;
        --on-error)
            _backfill_add $'\n' <<< $'report\nskip'
            return
            ;;
        --domain)
            _backfill_add $'\n' < <(virsh -q list --name 2>/dev/null)
            return
            ;;
        --offset|--length|--speed|--retry|--timeout|--job|--pool|--volume|--connect)
            return
            ;;
    esac

    if [[ $cur == -* ]]; then
        _backfill_add $'\n' < <(
            "${COMP_WORDS[0]}" ${command:+"$command"} --long-options \
                2>/dev/null)
    elif [ -z "$command" ] || [ "$command" = help ]; then
        _backfill_add $'\n' < <(
            "${COMP_WORDS[0]}" --list-commands 2>/dev/null)
    elif [ "$command" != list ] && [ "$command" != quit ]; then
        if [ "$command" != check ] && [ "$command" != owner ]; then
            _backfill_add '' < <("${call[@]}" --list-disks 2>/dev/null)
        fi
        _backfill_add $'\n' < <(compgen -f -- "$cur")
    fi
}

complete -F _backfill backfill
