"""Completion scripts for bash, zsh and fish, as text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Completions:
    """What can be completed.

    Attributes:
        meanings: subcommand -> its meaning.
        keys: subcommand -> keys that it takes as key=value.
        names: subcommand -> names that its first word may be.
        values: key -> names that its value may be.
    """

    meanings: Mapping[str, str]
    keys: Mapping[str, Sequence[str]]
    names: Mapping[str, Sequence[str]]
    values: Mapping[str, Sequence[str]]


BASH = """\
# completion of detbackbones for bash
_detbackbones() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" key="" prefix="" words=""
    COMPREPLY=()
    if [[ $COMP_CWORD -eq 1 ]]; then
        mapfile -t COMPREPLY < <(compgen -W "{subcommands}" -- "$current")
        return
    fi
    if [[ $current == "=" ]]; then  # bash splits words at "="
        key="$before" current=""
    elif [[ $before == "=" ]]; then
        key="${{COMP_WORDS[COMP_CWORD-2]}}"
    elif [[ $current == *=* ]]; then  # unless it is told not to
        key="${{current%%=*}}" prefix="${{current%%=*}}=" current="${{current#*=}}"
    fi
    if [[ -n $key ]]; then
        case "$key" in
{values}
        esac
    else
        case "${{COMP_WORDS[1]}}" in
{words}
        esac
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -P "$prefix" -- "$current")
    if [[ ${{#COMPREPLY[@]}} -eq 0 ]]; then
        compopt -o filenames 2> /dev/null
        mapfile -t COMPREPLY < <(compgen -f -P "$prefix" -- "$current")
    elif [[ -z $key ]]; then
        compopt -o nospace 2> /dev/null
        mapfile -t -O ${{#COMPREPLY[@]}} COMPREPLY < <(compgen -f -- "$current")
    fi
}}
complete -F _detbackbones detbackbones
"""

ZSH = """\
#compdef detbackbones
# completion of detbackbones for zsh
_detbackbones() {{
    local -a subcommands keys names
    if (( CURRENT == 2 )); then
        subcommands=({subcommands})
        _describe subcommand subcommands
        return
    fi
    if compset -P 1 '*='; then
        case "${{words[CURRENT]%%=*}}" in
{values}
        esac
        compadd -a names
        _files
        return
    fi
    case "${{words[2]}}" in
{words}
    esac
    compadd -S '' -- $keys
    compadd -a names
    _files
}}
if [[ $funcstack[1] == _detbackbones ]]; then
    _detbackbones "$@"
else
    compdef _detbackbones detbackbones
fi
"""


def bash_script(completions: Completions) -> str:
    """Return the script for bash 4 or later."""
    words = [
        _bash_case(name, [*completions.names.get(name, ()), *(f"{key}=" for key in keys)], indent=12)
        for name, keys in completions.keys.items()
    ]
    values = [_bash_case(key, names, indent=12) for key, names in completions.values.items()]
    return BASH.format(subcommands=" ".join(completions.meanings), words="\n".join(words), values="\n".join(values))


def _bash_case(pattern: str, words: Sequence[str], indent: int) -> str:
    return f'{" " * indent}{pattern}) words="{" ".join(words)}" ;;'


def zsh_script(completions: Completions) -> str:
    """Return the script for zsh."""
    subcommands = " ".join(f"'{name}:{meaning}'" for name, meaning in completions.meanings.items())
    words = [
        f"        {name}) keys=({' '.join(f'{key}=' for key in keys)}) "
        f"names=({' '.join(completions.names.get(name, ()))}) ;;"
        for name, keys in completions.keys.items()
    ]
    values = [f"            {key}) names=({' '.join(names)}) ;;" for key, names in completions.values.items()]
    return ZSH.format(subcommands=subcommands, words="\n".join(words), values="\n".join(values))


def fish_script(completions: Completions) -> str:
    """Return the script for fish."""
    lines = ["# completion of detbackbones for fish"]
    for name, meaning in completions.meanings.items():
        lines.append(f"complete -c detbackbones -n __fish_use_subcommand -f -a {name} -d '{meaning}'")
    for name, keys in completions.keys.items():
        given = [f"{key}={value}" for key in keys for value in completions.values.get(key, ())]
        words = " ".join([*completions.names.get(name, ()), *(f"{key}=" for key in keys), *given])
        if words:
            lines.append(f"complete -c detbackbones -n '__fish_seen_subcommand_from {name}' -a '{words}'")
    return "\n".join(lines) + "\n"


SCRIPTS: dict[str, Callable[[Completions], str]] = {"bash": bash_script, "zsh": zsh_script, "fish": fish_script}
