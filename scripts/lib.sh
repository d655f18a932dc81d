# shellcheck shell=bash
# Sourced by the other scripts: where the environment is and how to add to it. Run from the repository's root.

VENV=${VENV:-.venv}
export PATH="$PWD/$VENV/bin:$PATH"
export VIRTUAL_ENV="$PWD/$VENV"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# Python keeps what it has compiled: tests start a thousand processes, and each would compile all of our code again.
unset PYTHONDONTWRITEBYTECODE
# TensorFlow's greetings, which are no news: no GPU, which instructions it was built with.
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"

# find_python: a Python 3.11, from $PYTHON or the usual names.
find_python() {
  local name
  for name in ${PYTHON:-python3.11 python3 python}; do
    if "$name" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  echo "Headrace needs Python 3.11; none was found. Name one with PYTHON=/path/to/python3.11" >&2
  return 1
}

# make_venv OPTIONS: $VENV, with uv where there is one; Debian's Python without python3-venv has no pip to put in.
make_venv() {
  local python
  python=$(find_python)
  rm -rf "$VENV"
  if command -v uv >/dev/null; then
    uv venv --quiet --python "$python" "$@" "$VENV"
  else
    "$python" -m venv "$@" "$VENV" >/dev/null 2>&1 ||
      { rm -rf "$VENV" && "$python" -m venv --without-pip "$@" "$VENV"; }
  fi
}

# make_torch_venv: $VENV with PyTorch. PyPI's brings 5 GB of CUDA, so that of Debian is taken where it is of our Python.
make_torch_venv() {
  local system=/usr/bin/python3
  if PYTHON=$system find_python >/dev/null 2>&1; then
    "$system" -c 'import torch' 2>/dev/null || apt_install python3-torch
    if "$system" -c 'import torch' 2>/dev/null; then
      PYTHON=$system make_venv --system-site-packages
      return
    fi
  fi
  make_venv
  pip_install torch
}

# apt_install PACKAGES: as root on Debian, else nothing. That it fails is no error: what needs the packages says so.
apt_install() {
  if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "$@"; } >/dev/null 2>&1 || true
  fi
}

# install_compiler: what $VENV's Python needs to compile loader/native.c, if it is missing.
install_compiler() {
  local include packages=(gcc libc6-dev libjpeg-dev)
  include=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  [[ -f $include/Python.h ]] || packages+=(python3-dev)
  # shellcheck disable=SC2086 # CC may hold options
  printf '#include <%s>\n' stdio.h jpeglib.h Python.h | ${CC:-cc} -E -I"$include" - >/dev/null 2>&1 ||
    apt_install "${packages[@]}"
}

# install_databases: the servers that the tests of `sql` start, if one is missing.
install_databases() {
  command -v mariadbd /usr/sbin/mariadbd >/dev/null || apt_install mariadb-server
  compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || command -v postgres >/dev/null || apt_install postgresql
}

# have_uv: whether there is uv, which takes a third of the time that pip does; where there is none, $VENV gets one.
have_uv() {
  command -v uv >/dev/null || "$VENV/bin/python" -m pip install --quiet uv >/dev/null 2>&1 || return
  # It reads no variable of pip's.
  local name
  for name in FIND_LINKS=FIND_LINKS DEFAULT_INDEX=INDEX_URL INDEX=EXTRA_INDEX_URL; do
    local own=UV_${name%=*} of_pip=PIP_${name#*=}
    [[ -n ${!own:-} || -z ${!of_pip:-} ]] || export "$own=${!of_pip}"
  done
}

# pip_install ARGUMENTS: into $VENV; by pip where uv cannot.
pip_install() {
  if have_uv && uv pip install --quiet --python "$VENV/bin/python" "$@"; then
    return
  fi
  if "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    "$VENV/bin/python" -m pip install --quiet "$@"
  else
    local name
    for name in python3.11 python3 python; do # none in there: one from outside, which can install into it
      name=$(PATH=${PATH#*:} command -v "$name") || continue
      if "$name" -m pip --version >/dev/null 2>&1; then
        "$name" -m pip --python "$VENV/bin/python" install --quiet "$@"
        return
      fi
    done
    echo "There is no pip. On Debian: apt-get install python3-pip" >&2
    return 1
  fi
}
