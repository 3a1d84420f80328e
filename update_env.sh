#!/usr/bin/env bash
# Makes .venv beside this file, keeps it equal to requirements.txt, and runs a command inside it.
set -euo pipefail
exec 3>&2

usage() {
    cat <<'TEXT'
usage: ./update_env.sh [--cpu] [--dev] [command ...]

Makes .venv beside this script from requirements.txt (a no-op when nothing changed) and runs the command
inside it, from the current directory. Without a command it only sets up.

  --cpu    take PyTorch's CPU build: on Linux the default one brings gigabytes of CUDA. Remembered:
           later calls need no flag. To go back, delete .venv
  --dev    install requirements-dev.txt too; implied by the commands pytest, ruff and mypy
TEXT
}
say() { printf 'update_env.sh: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 2
}

readonly uv_version=0.13.8

cpu=false
dev=false
while [[ ${1-} == -* ]]; do
    case $1 in
        --cpu) cpu=true ;;
        --dev) dev=true ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) die "unknown option '$1'; known: --cpu, --dev, -h (options of a command come after the command)" ;;
    esac
    shift
done
tool=${1-}
[[ $tool == python* && ${2-} == -m ]] && tool=${3-}
case $tool in
    pytest | ruff | mypy) dev=true ;;
esac

root=.
[[ ${BASH_SOURCE[0]} == */* ]] && root=${BASH_SOURCE[0]%/*}
root=$(cd -- "$root" && pwd -P)
readonly root venv=$root/.venv
# Present while an install runs: after a kill nothing in .venv can be trusted.
readonly unfinished=$venv/.unfinished
# macOS has one build, without CUDA.
[[ $OSTYPE == darwin* ]] && cpu=false

# A stamp holds all that its install depended on. A moved .venv has wrong paths in its scripts, and a .venv
# whose system Python changed has its packages where the new one does not look: both are made again.
python_tag() { "$venv/bin/python" -I -S -c 'import sys; print(sys.implementation.cache_tag)' 2>/dev/null; }
stamp_of() { printf '%s\n%s\n' "$1" "$(<"$root/$2")"; }
stamped() { [[ -f $venv/$1 && $(<"$venv/$1") == "$2" ]]; }
venv_is_current() { [[ -x $venv/bin/python && ! -e $unfinished ]] && stamped .stamp-venv "$venv $(python_tag)"; }
base_is_current() { stamped .stamp-base "$(stamp_of base requirements.txt)"; }
dev_is_current() { [[ $dev == false ]] || stamped .stamp-dev "$(stamp_of dev requirements-dev.txt)"; }
build_is_right() { [[ $cpu == false || -e $venv/.cpu ]]; }
all_is_current() { venv_is_current && build_is_right && base_is_current && dev_is_current; }

find_python() {
    local name
    for name in python3.11 python3 python3.12 python3.13; do
        # Asked by running it: a version manager's shim is on PATH even where it has nothing behind it.
        # The real path, so that the .venv does not follow a link to another version later.
        "$name" -c 'if True:
            import sys, os, venv, ensurepip
            assert sys.version_info >= (3, 11)
            print(os.path.realpath(sys.executable))' 2>/dev/null && return
    done
    die "needs Python 3.11 or newer with its venv module, found none on PATH as python3.11 or python3" \
        "(Debian, Ubuntu: apt install python3.11 python3.11-venv; macOS: brew install python@3.11)"
}

# Of what pip says on standard input, the last line every 10 seconds, and how long it has been at it.
readonly tell_now_and_then='if True:
    import os, select, signal, time
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    line, rest, shown, start = "", b"", None, time.monotonic()
    while True:
        now = time.monotonic()
        if line and (shown is None or now - shown >= 10):
            shown = now
            print(f"update_env.sh: {now - start:.0f} s: {line}", flush=True)
        if not select.select([0], [], [], 1)[0]:
            continue
        if not (data := os.read(0, 1 << 16)):
            break
        *lines, rest = (rest + data).split(b"\n")
        told = [text.decode(errors="replace").strip() for text in lines]
        told = [text for text in told if text.startswith(("Collecting", "Downloading", "Installing", "Building"))]
        if told:
            line = told[-1] if len(told[-1]) < 100 else told[-1][:97] + "..."
'

# pip's own chatter is for people only; what it prints never mixes with the command's output. Where nobody
# watches, or its errors are not to be seen, it says now and then what it is at.
pip_install() {
    local pip=("$venv/bin/python" -m pip --disable-pip-version-check install)
    if [[ -t 2 ]]; then
        "${pip[@]}" "$@" 1>&2
    else
        "${pip[@]}" --progress-bar off "$@" | "$venv/bin/python" -I -S -c "$tell_now_and_then" 1>&3
    fi
}

cuda_build_installed() {
    local info
    for info in "$venv"/lib/python3.*/site-packages/torch-[0-9]*.dist-info; do
        [[ -d $info && $info != *+cpu.dist-info ]] && return
    done
    return 1
}

install_cpu_torch() {
    local version
    version=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' "$root/requirements.txt")
    say "installing the CPU build of torch $version"
    # Only a CPU build answers to +cpu, wherever pip is configured to look. Where it finds none, uv knows
    # PyTorch's own index.
    pip_install --no-deps "torch==$version+cpu" 2>/dev/null && return
    pip_install "uv==$uv_version" || return
    "$venv/bin/uv" pip install --python "$venv/bin/python" --no-deps --torch-backend=cpu "torch==$version" 1>&2
}

# Called with the lock held. $1: name of the stamp, $2: requirements file.
install_file() {
    say "installing $2"
    : >"$unfinished"
    if [[ $1 == base && -e $venv/.cpu ]] && ! install_cpu_torch; then
        rm -f "$unfinished"
        die "found no CPU build of torch (messages above); the default build: delete $venv and leave out --cpu"
    fi
    if ! pip_install -r "$root/$2"; then
        rm -f "$unfinished"
        die "could not install $2 (messages above)"
    fi
    stamp_of "$1" "$2" >"$venv/.stamp-$1"
    rm -f "$unfinished"
}

update() {
    if ! venv_is_current || { ! build_is_right && cuda_build_installed; }; then
        # The choice of the CPU build outlives the .venv it was made for.
        [[ -e $venv/.cpu && $OSTYPE != darwin* ]] && cpu=true
        [[ ! -e $venv || -e $unfinished || -e $venv/.stamp-venv ]] ||
            die "$venv was not made by this script: move it away first"
        say "making $venv with $python; the first install takes some minutes"
        rm -rf "$venv"
        mkdir "$venv"
        : >"$unfinished"
        # Ctrl-C would show where Python was: that it was pressed is known.
        local messages
        if ! messages=$("$python" -m venv "$venv" 2>&1); then
            printf '%s\n' "$messages" >&2
            die "$python -m venv failed (messages above)"
        fi
        printf '%s\n' "$venv $(python_tag)" >"$venv/.stamp-venv"
        rm -f "$unfinished"
    fi
    [[ $cpu == false ]] || : >"$venv/.cpu"
    base_is_current || install_file base requirements.txt
    dev_is_current || install_file dev requirements-dev.txt
}

if ! all_is_current; then
    # One install at a time. Python takes the lock because macOS has no flock command; it belongs to the open
    # file, so it is held until this shell closes it.
    python=$(find_python)
    exec 9>"$root/.venv.lock"
    trap 'say "interrupted; the same command begins anew"; exit 130' INT TERM
    "$python" -c 'if True:
        import fcntl, signal
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        fcntl.flock(9, fcntl.LOCK_EX)'
    all_is_current || update
    trap - INT TERM
    exec 9>&-
fi
exec 3>&-

if [[ $# -eq 0 ]]; then
    say "ready: $venv"
    say "next: ./update_env.sh python reproduce_paper.py -h, or source .venv/bin/activate"
    exit 0
fi
unset PYTHONHOME
export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH
exec "$@"
