#!/usr/bin/env bash
# Makes .venv beside this file, keeps it equal to requirements.txt, and runs a command inside it.
set -euo pipefail

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

# pip's own chatter is for people only; what it prints never mixes with the command's output.
pip_install() {
    local quiet=()
    [[ -t 2 ]] || quiet=(-qq)
    "$venv/bin/python" -m pip --disable-pip-version-check install ${quiet[@]+"${quiet[@]}"} "$@" 1>&2
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
        "$python" -m venv "$venv" 1>&2 || die "$python -m venv failed (messages above)"
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
    "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
    trap 'exit 130' INT TERM
    all_is_current || update
    trap - INT TERM
    exec 9>&-
fi

if [[ $# -eq 0 ]]; then
    say "ready: $venv"
    say "next: ./update_env.sh python reproduce_paper.py -h, or source .venv/bin/activate"
    exit 0
fi
unset PYTHONHOME
export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH
exec "$@"
