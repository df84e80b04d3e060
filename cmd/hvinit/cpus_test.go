package main

import (
	"os"
	"testing"
)

func TestAProcessorThatComesIsBroughtOnline(t *testing.T) {
	sys := t.TempDir()
	dir := sys + "/devices/system/cpu/cpu3"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for event, want := range map[string]string{
		"add@/devices/system/cpu/cpu3\x00ACTION=add\x00":   "1",
		"remove@/devices/system/cpu/cpu3\x00ACTION=remove": "0",
		"add@/devices/system/cpu/cpu3/cache\x00":           "0",
		"add@/devices/system/cpu/../cpu/cpu3\x00":          "0",
		"add@/devices/virtual/net/lo\x00":                  "0",
		"":                                                 "0",
	} {
		if err := os.WriteFile(dir+"/online", []byte("0"), 0o600); err != nil {
			t.Fatal(err)
		}
		onlineCPU(sys, []byte(event))
		if b, err := os.ReadFile(dir + "/online"); err != nil || string(b) != want {
			t.Errorf("%q: online %q, %v", event, b, err)
		}
	}
}
