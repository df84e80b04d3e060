package main

import (
	"os"
	"time"
)

// watchdogDevice is there when the machine has a watchdog; see hvctl's --watchdog.
const watchdogDevice = "/dev/watchdog"

// watchdogEvery is how often the watchdog hears from us; drivers wait for 30
// seconds or more.
const watchdogEvery = 5 * time.Second

// guard starts the machine's watchdog, if it has one, and writes to it for as long
// as this process is scheduled. It is never closed, so nothing stops it.
func guard(realBoot bool) {
	if !realBoot {
		return
	}
	f, err := os.OpenFile(watchdogDevice, os.O_WRONLY, 0)
	if err != nil {
		return // there is none
	}
	go func() {
		for {
			if _, err := f.Write([]byte{0}); err != nil {
				say(os.Stderr, "watchdog: "+err.Error())
			}
			time.Sleep(watchdogEvery)
		}
	}()
}
