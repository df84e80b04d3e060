package report_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/hvctl/hvctl/internal/bench/result"
	"github.com/hvctl/hvctl/internal/testenv"
)

// browser is a headless Chromium that notes what a page does that it should not.
func browser(t *testing.T) (ctx context.Context, complaints func() []string) {
	t.Helper()
	testenv.Require(t, testenv.Chromium)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath("chromium"), chromedp.NoSandbox, chromedp.UserDataDir(t.TempDir()), chromedp.WSURLReadTimeout(time.Minute))
	ctx, cancel = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(cancel)
	var mu sync.Mutex
	var all []string
	note := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, fmt.Sprintf(format, args...))
	}
	listen := func(ev any) {
		switch ev := ev.(type) {
		case *network.EventRequestWillBeSent:
			if !strings.HasPrefix(ev.Request.URL, "file:///") || !strings.HasSuffix(ev.Request.URL, "/report.html") {
				note("a request for %s", ev.Request.URL)
			}
		case *log.EventEntryAdded:
			note("the log: %s", ev.Entry.Text)
		case *runtime.EventConsoleAPICalled:
			note("the console: %s", ev.Type)
		case *runtime.EventExceptionThrown:
			note("an exception: %s", ev.ExceptionDetails.Text)
		case *page.EventJavascriptDialogOpening:
			note("a dialogue: %s", ev.Message)
		}
	}
	ctx, cancel = chromedp.NewContext(ctx, chromedp.WithListener(listen))
	t.Cleanup(cancel)
	on(t, ctx, command(network.Enable, network.EnableParams{}))
	on(t, ctx, command(log.Enable, cdp.Empty{}))
	on(t, ctx, command(runtime.Enable, cdp.Empty{}))
	return ctx, func() []string { mu.Lock(); defer mu.Unlock(); return all }
}

// command is a command of the browser's protocol.
func command[P, R any](c cdp.Command[P, R], params P) chromedp.Action[R] {
	return func(ctx context.Context, target *chromedp.Target) (R, error) { return cdp.Call(ctx, target, c, params) }
}

func on[T any](t *testing.T, ctx context.Context, a chromedp.Action[T]) T {
	t.Helper()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestBrowserShowsReportsWithoutComplaint(t *testing.T) {
	ctx, complaints := browser(t)
	whole, err := result.Load(recorded)
	if err != nil {
		t.Fatal(err)
	}
	wide := made(2)
	wide.Command, wide.Image.Ref = strings.Repeat("w", 1000), strings.Repeat("w", 1000)
	wide.Plan.Targets = append(wide.Plan.Targets, strings.Repeat("w", 300), hostile)
	for b := range 6 {
		wide.Samples = append(wide.Samples, result.Sample{Chapter: strings.Repeat("c", 300), Probe: hostile, Target: "host", Block: b, Value: 1},
			result.Sample{Chapter: strings.Repeat("c", 300), Probe: hostile, Target: strings.Repeat("w", 300), Block: b, Value: 5})
	}
	for name, r := range map[string]*result.Result{"recorded": whole, "long words": wide} {
		file := filepath.Join(t.TempDir(), "report.html")
		if err := os.WriteFile(file, []byte(pageOf(t, r)), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, width := range []int64{390, 1280} {
			on(t, ctx, chromedp.EmulateViewport(width, 844))
			on(t, ctx, chromedp.Navigate("file://"+file))
			overflow := on(t, ctx, chromedp.Evaluate[int](`document.querySelectorAll('details').forEach(d => d.open = true); document.documentElement.scrollWidth - window.innerWidth`))
			figures := on(t, ctx, chromedp.Evaluate[int](`[...document.querySelectorAll('svg.plot')].filter(s => s.getBoundingClientRect().height > 40).length`))
			on(t, ctx, command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}}))
			dark := on(t, ctx, chromedp.Evaluate[string](`getComputedStyle(document.body).backgroundColor`))
			on(t, ctx, command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{}))
			if overflow > 0 {
				t.Errorf("%s, %d pixels wide: the page is %d pixels wider", name, width, overflow)
			}
			if figures == 0 || dark == "rgb(255, 255, 255)" {
				t.Errorf("%s, %d pixels wide: %d figures, dark is %s", name, width, figures, dark)
			}
		}
	}
	if pdf := on(t, ctx, chromedp.PrintToPDF(chromedp.PDFPrintBackground())); len(pdf) < 10_000 {
		t.Errorf("printed, it has %d bytes", len(pdf))
	}
	for _, c := range complaints() {
		t.Error(c)
	}
}
