package ociattack

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fullConfig has every field that a wrong value can be put into.
const fullConfig = `{
"ociVersion": "1.0.2", "hostname": "h", "domainname": "d", "annotations": {"a": "b"},
"root": {"path": "rootfs", "readonly": true},
"process": {"terminal": false, "consoleSize": {"height": 24, "width": 80}, "cwd": "/", "args": ["/bin/true"], "env": ["A=b"], "noNewPrivileges": true,
 "user": {"uid": 0, "gid": 0, "umask": 18, "additionalGids": [5]}, "oomScoreAdj": 100,
 "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"], "inheritable": [], "ambient": []},
 "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}], "scheduler": {"policy": "SCHED_OTHER", "nice": 5}, "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4}},
"mounts": [{"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]}],
"hooks": {"prestart": [{"path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 5}], "createRuntime": [{"path": "/bin/true"}], "poststop": [{"path": "/bin/true"}]},
"linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}],
 "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0}], "cgroupsPath": "/attack", "rootfsPropagation": "private",
 "maskedPaths": ["/proc/version"], "readonlyPaths": ["/proc/sys"], "sysctl": {"net.ipv4.ip_forward": "1"}, "personality": {"domain": "LINUX"},
 "resources": {"memory": {"limit": 67108864, "swap": 67108864, "reservation": 67108864}, "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0", "mems": "0"}, "pids": {"limit": 100},
  "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}], "hugepageLimits": [{"pageSize": "2MB", "limit": 2097152}]},
 "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "flags": ["SECCOMP_FILTER_FLAG_LOG"], "syscalls": [{"names": ["getcwd"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [{"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_EQ"}]}]}}
}`

// leaf is a place in a configuration.
type leaf struct {
	path string
	set  func(v any)
	was  any
}

// leaves lists every value below v, objects and lists included.
func leaves(v any, path string, set func(any), all *[]leaf) {
	if path != "" {
		*all = append(*all, leaf{path, set, v})
	}
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			leaves(v[k], strings.TrimPrefix(path+"."+k, "."), func(n any) { v[k] = n }, all)
		}
	case []any:
		for i := range v {
			leaves(v[i], fmt.Sprintf("%s[%d]", path, i), func(n any) { v[i] = n }, all)
		}
	}
}

// TestEveryFieldOfTheConfigurationIsJudged puts something of the wrong type
// and something hostile into every place of a configuration. Of the wrong type
// must be refused, with the field's name; nothing may make the runtime crash,
// hang, or leave a container behind when it refused.
func TestEveryFieldOfTheConfigurationIsJudged(t *testing.T) {
	h := newHost(t)
	b := h.bundle("true")
	b.save()
	path := filepath.Join(b.dir, "config.json")
	try := func(config []byte, what string) (r result) {
		if err := os.WriteFile(path, config, 0o644); err != nil {
			t.Fatal(err)
		}
		id := newID()
		r = h.do("create", "--bundle", b.dir, id)
		switch {
		case strings.Contains(r.err, "panic") || strings.Contains(r.err, "goroutine ") || r.code == 2 || r.code > 128:
			t.Errorf("%s: crashed: %v", what, r)
		case r.code != 0:
			if _, err := os.Lstat(filepath.Join(h.root, id)); err == nil {
				t.Errorf("%s: refused, and the container is there", what)
			}
		default:
			h.ok("delete", "--force", id)
		}
		return r
	}
	if r := try([]byte(fullConfig), "as it is"); r.code != 0 {
		t.Fatalf("the configuration is refused without a change, so this proves nothing: %v", r)
	}

	parse := func() (root map[string]any, all []leaf) {
		if err := json.Unmarshal([]byte(fullConfig), &root); err != nil {
			t.Fatal(err)
		}
		leaves(root, "", nil, &all)
		return root, all
	}
	_, all := parse()
	t.Logf("%d places", len(all))
	hostile := []any{strings.Repeat("A", 1<<16), "\x00", "../../../etc", -1.0, 1e18, "\u202e"}
	for i, place := range all {
		if thinned(i) {
			continue
		}
		wrong := any([]any{map[string]any{"x": 1}}) // no field of the specification is such a list
		values := append([]any{wrong}, hostile[i%len(hostile)])
		for n, v := range values {
			root, places := parse()
			places[i].set(v)
			data, err := json.Marshal(root)
			if err != nil {
				t.Fatal(err)
			}
			r := try(data, fmt.Sprintf("%s = %.40q", place.path, fmt.Sprint(v)))
			if n > 0 {
				continue
			}
			// The decoder names the map, not its key.
			name, _, _ := strings.Cut(place.path, "[")
			for _, m := range []string{"annotations", "linux.sysctl"} {
				if strings.HasPrefix(name, m+".") {
					name = m
				}
			}
			// This one is a list of objects without a field that is required.
			if place.path == "linux.resources.devices" {
				continue
			}
			if r.code == 0 || !strings.Contains(r.err, name) {
				t.Errorf("%s of the wrong type: %v", place.path, r)
			}
		}
	}
	for name, config := range map[string]string{
		"empty": "", "no object": "[]", "cut off": fullConfig[:len(fullConfig)/2], "two": fullConfig + fullConfig, "null": "null",
		"deep": strings.Repeat(`{"a":`, 20000), "large": `{"ociVersion": "1.0.2", "hostname": "` + strings.Repeat("x", 64<<20) + `"}`, "no UTF-8": "{\"ociVersion\": \"\xff\xfe\"}",
	} {
		if r := try([]byte(config), name); r.code == 0 || len(r.err) > 4096 {
			t.Errorf("%s: exit %d, %.300s", name, r.code, r.err)
		}
	}
}
