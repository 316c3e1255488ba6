# What scripts/test and scripts/demo share; sourced by bash. Sets ROOT (the checkout) and PATH (.venv first).

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
VENV=$ROOT/.venv
# Debian keeps nginx in /usr/sbin, which is not on everyone's PATH.
PATH=$VENV/bin:$PATH:/usr/local/sbin:/usr/sbin
export PATH PIP_DISABLE_PIP_VERSION_CHECK=1
# Else every process that a test starts would compile the package anew.
unset PYTHONDONTWRITEBYTECODE

fail() {
    echo "${0##*/}: error: $*" >&2
    exit 1
}

# Run a command silently; if it fails, show what it said and return its status.
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 </dev/null || status=$?
    ((status == 0)) || cat "$log" >&2
    rm -f "$log"
    return "$status"
}

find_python() {
    local name
    for name in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    fail "there is no Python 3.11 or later here; install one, or name it: PYTHON=/path/to/python3 $0"
}

# ensure_venv EXTRA: the virtual environment with the package, editable, and one of its extras.
# Nothing is done when that was done before, by the same Python, here, for the same setup.cfg and pyproject.toml.
ensure_venv() {
    local extra=$1 python stamp state
    stamp=$VENV/.installed-$extra
    if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        python=$(find_python) || exit 1
        quietly "$python" -m venv --clear "$VENV" ||
            fail "$python cannot make a virtual environment; on Debian and Ubuntu install python3-venv"
    fi
    state=$(cd "$ROOT" && "$VENV/bin/python" - "$ROOT" <<'PYTHON'
import hashlib, pathlib, sys

files = [pathlib.Path(name).read_bytes() for name in ("setup.cfg", "pyproject.toml")]
print(hashlib.sha256(b"\0".join(files)).hexdigest(), sys.version.split()[0], sys.argv[1])
PYTHON
    )
    if [[ ! -f $stamp || $(<"$stamp") != "$state" ]]; then
        echo "installing shardtools[$extra] into $VENV"
        quietly "$VENV/bin/python" -m pip install -q -e "$ROOT[$extra]" || fail "pip could not install shardtools[$extra]"
        echo "$state" >"$stamp"
    fi
}

# PyTorch and torchdata in the virtual environment: the build for the CPU alone where an index has it, which is a tenth
# of the other's size.
ensure_torch() {
    "$VENV/bin/python" -c 'import torch, torchdata' 2>/dev/null && return
    echo "installing PyTorch into $VENV"
    "$VENV/bin/python" -m pip install -q torch==2.13.0+cpu torchdata >/dev/null 2>&1 ||
        quietly "$VENV/bin/python" -m pip install -q torch torchdata || fail "pip could not install torch and torchdata"
}

# TensorFlow for the CPU, if it can be installed: its tests are left out without it.
ensure_tensorflow() {
    "$VENV/bin/python" -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("tensorflow"))' && return
    echo "installing TensorFlow into $VENV"
    "$VENV/bin/python" -m pip install -q tensorflow-cpu >/dev/null 2>&1 ||
        echo "pip could not install tensorflow-cpu; its tests will be skipped" >&2
}

# ensure_program PROGRAM PACKAGE: install the Debian package that has a program, unless the program is here.
ensure_program() {
    local program=$1 package=$2 sudo=()
    command -v "$program" >/dev/null && return
    command -v apt-get >/dev/null || fail "$program is missing and there is no apt-get here; install $program"
    if ((EUID != 0)); then
        command -v sudo >/dev/null || fail "$program is missing; install it as root: apt-get install $package"
        sudo=(sudo)
        [[ -t 0 ]] && sudo -v || sudo=(sudo -n)
    fi
    echo "installing $package"
    quietly "${sudo[@]}" apt-get update -q || echo "apt-get update failed; trying with the lists that are here" >&2
    quietly "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "$package" ||
        fail "apt-get could not install $package; install it as root: apt-get install $package"
}

ensure_nginx() {
    ensure_program nginx nginx-light
}

# `ip`, for networks of namespaces, if it can be installed: their tests are skipped without it.
ensure_ip() {
    (ensure_program ip iproute2) || true
}

# Chromium and its driver, if they can be installed: the tests of the viewer's page are skipped without them.
ensure_chromium() {
    (ensure_program chromium chromium && ensure_program chromedriver chromium-driver) ||
        echo "there is no chromium here; the tests of the viewer's page in a browser will be SKIPPED" >&2
}

# axe, which looks for what hinders people who use screen readers: the one file of a package whose own needs are left out.
# Its tests are skipped without it.
ensure_axe() {
    local share=$VENV/share/axe
    [[ -f $share/axe_playwright_python/axe.min.js ]] && return
    echo "installing axe into $share"
    quietly "$VENV/bin/python" -m pip install -q --no-deps --target "$share" axe-playwright-python==0.1.8 ||
        echo "pip could not install axe; the tests of the page's accessibility will be SKIPPED" >&2
}

# Neuroglancer's own client, which reads an array that htview serves: the files of a package whose needs are left out.
# Its test is skipped without it.
ensure_neuroglancer() {
    local share=$VENV/share/neuroglancer
    [[ -d $share/neuroglancer/static/client ]] && return
    echo "installing Neuroglancer into $share"
    quietly "$VENV/bin/python" -m pip install -q --no-deps --target "$share" neuroglancer==2.41.2 ||
        echo "pip could not install Neuroglancer; the test with it will be SKIPPED" >&2
}
