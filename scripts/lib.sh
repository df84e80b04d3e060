# Helpers shared by the scripts in this folder; source it, do not run it.
# shellcheck shell=bash

# hv_repo is the root of the work tree, hv_cache the folder for everything
# that is slow to make and can be made again.
hv_repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
hv_cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/hvctl

hv_name=$(basename "$0")
say() { printf '%s: %s\n' "$hv_name" "$*" >&2; }
die() { say "$*"; exit "${HV_DIE:-1}"; }

# need_packages NAME... installs the Debian packages that are missing. It
# costs a few milliseconds when there is nothing to do.
need_packages() {
	local missing=() p
	command -v dpkg-query >/dev/null || die "needs a Debian system (dpkg-query is missing) to install: $*"
	local have
	have=" $(dpkg-query -W -f '${db:Status-Status}:${Package} ' "$@" 2>/dev/null || true)"
	for p in "$@"; do
		[[ $have == *" installed:$p "* ]] || missing+=("$p")
	done
	((${#missing[@]})) || return 0
	local sudo=()
	if ((EUID != 0)); then
		command -v sudo >/dev/null || die "needs the Debian packages ${missing[*]}; install them as root: apt-get install ${missing[*]}"
		sudo=(sudo)
	fi
	say "installing Debian packages: ${missing[*]}"
	local log; log=$(mktemp)
	local try
	for try in 1 2 3; do
		if "${sudo[@]}" apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 update -qq >"$log" 2>&1 &&
			"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
				install -y -qq --no-install-recommends "${missing[@]}" >>"$log" 2>&1; then
			rm -f "$log"
			return 0
		fi
		say "apt-get did not succeed (attempt $try of 3)"
		sleep $((try * 3))
	done
	tail -n 20 "$log" >&2
	rm -f "$log"
	die "cannot install ${missing[*]}; the end of apt-get's output is above"
}

# newest_package NAME prints "package version" of what NAME, a meta package,
# depends on (linux-image-amd64 -> linux-image-6.1.0-x-amd64), or of NAME
# itself when it depends on nothing that carries its name's beginning.
newest_package() {
	local meta=$1 prefix=$2 pkg
	pkg=$(apt-cache depends "$meta" 2>/dev/null | awk -v p="$prefix" '$1=="Depends:" && index($2,p)==1 {print $2; exit}')
	[[ -n $pkg ]] || return 1
	local ver
	ver=$(apt-cache policy "$pkg" | awk '$1=="Candidate:"{print $2}')
	[[ -n $ver && $ver != "(none)" ]] || return 1
	printf '%s %s\n' "$pkg" "$ver"
}

# fetch_deb PACKAGE VERSION DIR downloads one package through apt (which checks
# its signature chain) and unpacks its files into DIR.
fetch_deb() {
	local pkg=$1 ver=$2 dir=$3 tmp
	tmp=$(mktemp -d "${TMPDIR:-/var/tmp}/hvctl-deb.XXXXXX")
	chmod 755 "$tmp" # apt's download user must be able to enter
	local try
	for try in 1 2 3; do
		if (cd "$tmp" && apt-get -o Acquire::Retries=3 -o APT::Sandbox::User=root download -qq "$pkg=$ver") >"$tmp/log" 2>&1; then
			mkdir -p "$dir"
			dpkg -x "$tmp"/"$pkg"_*.deb "$dir" || { rm -rf "$tmp"; die "cannot unpack $pkg $ver"; }
			rm -rf "$tmp"
			return 0
		fi
		say "download of $pkg $ver did not succeed (attempt $try of 3)"
		sleep $((try * 3))
		refresh_lists
	done
	cat "$tmp/log" >&2
	rm -rf "$tmp"
	die "cannot download $pkg $ver with apt-get"
}

# refresh_lists brings apt's package lists up to date where that is allowed.
refresh_lists() {
	((EUID == 0)) || return 0
	apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 update -qq >/dev/null 2>&1 || true
}

# with_lock FILE COMMAND... runs COMMAND while holding an exclusive lock.
with_lock() {
	local lock=$1
	shift
	mkdir -p "$(dirname "$lock")"
	(
		flock -n 9 || { say "waiting for another run ($lock)"; flock 9; }
		"$@"
	) 9>"$lock"
}

# copy_image STORE IMAGE TO copies an image to another store, file system and all.
copy_image() {
	local store=$1 image=$2 to=$3 digest
	mkdir -p "$to"/{blobs/sha256,derived}
	cp "$store"/{index.json,oci-layout} "$to"/
	digest=$("$hv_repo/bin/hvctl" --store "$store" images --json | grep -A1 "/$image\"" | sed -n 's/.*"sha256:\([0-9a-f]*\)".*/\1/p')
	[[ -n $digest ]] || die "the store $store has no image $image"
	cp "$store"/derived/"$digest"*.erofs "$to"/derived/
	find "$store/blobs/sha256" -type f -size -1000k -exec cp {} "$to"/blobs/sha256/ \;
}

# in_memory FOLDER PATH... puts copies below FOLDER, which is in a tmpfs, in the
# place of files and folders: in the test host they come from another machine's
# disk, and waiting for it counts.
in_memory() {
	local to=$1 f copy
	shift
	for f in "$@"; do
		f=$(readlink -f "$f")
		copy=$to$f
		[[ -e $f && ! -e $copy ]] || continue
		mkdir -p "${copy%/*}"
		cp -a "$f" "$copy"
		mount --bind "$copy" "$f"
	done
}
