# Bash completion of backfill(1).  Words come from the command itself.
# SPDX-License-Identifier: LGPL-2.1-or-later

_backfill_disks ()
{
    # Names first, one a line; the server may be away: then nothing.
    "${_backfill_call[@]}" --json list 2>/dev/null |
        sed -n 's/^    "name": "\([^"\\]\{1,\}\)",\{0,1\}$/\1/p'
}

_backfill ()
{
    local cur prev word command='' domain='' i
    local -a _backfill_call=("${COMP_WORDS[0]}")

    cur=${COMP_WORDS[COMP_CWORD]}
    prev=${COMP_WORDS[COMP_CWORD-1]}
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
            -c|--control)
                i=$((i + 1))
                _backfill_call+=(-c "${COMP_WORDS[i]}")
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
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        --on-error)
            mapfile -t COMPREPLY < <(compgen -W 'report skip' -- "$cur")
            return
            ;;
        --domain)
            mapfile -t COMPREPLY < <(compgen -W \
                "$(virsh -q list --name 2>/dev/null)" -- "$cur")
            return
            ;;
        --offset|--length|--speed|--retry|--pool|--volume|--connect)
            return
            ;;
    esac

    if [[ $cur == -* ]]; then
        # shellcheck disable=SC2086
        mapfile -t COMPREPLY < <(compgen -W \
            "$("${COMP_WORDS[0]}" $command --long-options 2>/dev/null)" \
            -- "$cur")
    elif [ -z "$command" ]; then
        mapfile -t COMPREPLY < <(compgen -W \
            "$("${COMP_WORDS[0]}" --list-commands 2>/dev/null)" -- "$cur")
    elif [ "$command" = help ]; then
        mapfile -t COMPREPLY < <(compgen -W \
            "$("${COMP_WORDS[0]}" --list-commands 2>/dev/null)" -- "$cur")
    elif [ "$command" != list ] && [ "$command" != quit ]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(
            if [ "$command" != check ]; then
                compgen -W "$(_backfill_disks)" -- "$cur"
            fi
            compgen -f -- "$cur")
    fi
}

complete -F _backfill backfill
