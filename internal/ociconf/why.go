package ociconf

// whyNot explains, for docs/conformance.md, why hvctl-oci does not pass a
// program on a machine of that mode.
func whyNot(program, mode string) (string, bool) {
	for _, w := range reasons {
		if w.program == program && (w.mode == "" || w.mode == mode) {
			return w.why, true
		}
	}
	if why := racy[program]; why != "" {
		return "its verdict is a race: " + why, true
	}
	return "", false
}

const (
	v1, v2 = "hybrid-v1", "cgroup-v2"

	noV2 = "the program looks for cgroup v1 hierarchies and gives up (\"cgroupv2 is not supported yet\"); no runtime passes"
)

// reasons: mode "" is any.
var reasons = []struct{ program, mode, why string }{
	{"hooks", "", "it wants the prestart hook after the start operation; since spec 1.1 prestart runs in create (config.md, \"Prestart\")"},
	{"prestart", "", "it wants the prestart hook after the start operation; since spec 1.1 prestart runs in create (config.md, \"Prestart\")"},
	{"poststart_fail", "", "it is of spec 1.1, where a failing poststart hook is a warning; in 1.3 it is an error that stops the container (runtime.md, \"Lifecycle\", step 9)"},
	{"start", "", "its last test wants start to succeed where the text above it says that start MUST fail (no process set)"},
	{"misc_props", "", "its own mistake: it runs /runtimetest, which it has not put into the bundle"},
	{"process_rlimits", "", "its own mistake: runtimetest is a Go program, whose start raises the soft limit that it then compares (320 of 321 tests pass)"},
	{"linux_process_apparmor_profile", "", "no AppArmor where the suite runs, and a profile that cannot be set is an error, not something to pass over; with AppArmor on and the profile loaded it passes (internal/ociconf, TestAppArmorProgramPassesWithAppArmor)"},
	{"process_capabilities", v1, "the machine's root lacks CAP_SYS_RESOURCE, which the program asks for; it passes in the test host"},
	{"linux_cgroups_memory", v1, "the kernel memory limit it sets is gone from the kernel (48 of 54 tests pass, the rest cannot)"},
	{"linux_cgroups_relative_memory", v1, "the kernel memory limit it sets is gone from the kernel (8 of 9 tests pass)"},
	{"linux_cgroups_blkio", v1, "it sets blkio.leaf_weight, which went with the CFQ scheduler"},
	{"linux_cgroups_relative_blkio", v1, "it sets blkio.leaf_weight, which went with the CFQ scheduler"},
	{"linux_cgroups_hugetlb", v1, "no v1 hugetlb hierarchy on this machine, where the program looks for it"},
	{"linux_cgroups_relative_hugetlb", v1, "no v1 hugetlb hierarchy on this machine, where the program looks for it"},
	{"linux_cgroups_network", v1, "no net_cls and net_prio hierarchies on this machine"},
	{"linux_cgroups_relative_network", v1, "no net_cls and net_prio hierarchies on this machine"},

	{"delete_only_create_resources", v2, noV2},
	{"delete_resources", v2, noV2},
	{"linux_cgroups_blkio", v2, noV2},
	{"linux_cgroups_cpus", v2, noV2},
	{"linux_cgroups_devices", v2, noV2},
	{"linux_cgroups_hugetlb", v2, noV2},
	{"linux_cgroups_memory", v2, noV2},
	{"linux_cgroups_network", v2, noV2},
	{"linux_cgroups_pids", v2, noV2},
	{"linux_cgroups_relative_blkio", v2, noV2},
	{"linux_cgroups_relative_cpus", v2, noV2},
	{"linux_cgroups_relative_devices", v2, noV2},
	{"linux_cgroups_relative_hugetlb", v2, noV2},
	{"linux_cgroups_relative_memory", v2, noV2},
	{"linux_cgroups_relative_network", v2, noV2},
	{"linux_cgroups_relative_pids", v2, noV2},
}
