package plan_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/hvctl/hvctl/container/plan"
)

// fill sets every field that v has to something that is not its zero value.
func fill(v reflect.Value, r *rand.Rand) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), r)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), r)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1+r.IntN(3), 4))
		for i := range v.Len() {
			fill(v.Index(i), r)
		}
	case reflect.String:
		v.SetString(string(rune('a' + r.IntN(26))))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int32:
		v.SetInt(int64(r.Int32N(1000)) - 1001)
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(1 + r.IntN(200)))
	default:
		panic("unhandled kind " + v.Kind().String())
	}
}

func filled(seed uint64) *plan.Plan {
	p := new(plan.Plan)
	fill(reflect.ValueOf(p).Elem(), rand.New(rand.NewPCG(seed, 1)))
	return p
}

func TestEveryFieldTravels(t *testing.T) {
	for seed := range uint64(20) {
		want := filled(seed)
		b, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := plan.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: got %+v, want %+v", seed, got, want)
		}
		if got.Process = nil; true {
			b, _ := got.Encode()
			if again, err := plan.Decode(b); err != nil || again.Process != nil {
				t.Fatalf("without a process: %+v, %v", again, err)
			}
		}
	}
}

func TestDecoderRefusesEveryCut(t *testing.T) {
	b, err := filled(7).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for n := range b {
		if _, err := plan.Decode(b[:n]); !errors.Is(err, plan.ErrMalformed) {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(b), err)
		}
	}
	if _, err := plan.Decode(append(b, 0)); !errors.Is(err, plan.ErrMalformed) {
		t.Errorf("a byte too many: %v", err)
	}
}

func TestFramesAreBounded(t *testing.T) {
	huge := []byte{0xff, 0xff, 0xff, 0x7f}
	if _, err := plan.ReadPlan(bytes.NewReader(huge)); !errors.Is(err, plan.ErrMalformed) {
		t.Errorf("plan of 2 GiB: %v", err)
	}
	if _, _, err := plan.Receive(bytes.NewReader(huge)); !errors.Is(err, plan.ErrMalformed) {
		t.Errorf("message of 2 GiB: %v", err)
	}
	if _, _, err := plan.Receive(bytes.NewReader([]byte{5, 0, 0, 0, 'R'})); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut message: %v", err)
	}
	if _, _, err := plan.Receive(bytes.NewReader(nil)); !errors.Is(err, io.EOF) {
		t.Errorf("closed: %v", err)
	}
	var w bytes.Buffer
	if err := plan.Send(&w, plan.Failed, "why"); err != nil {
		t.Fatal(err)
	}
	if k, text, err := plan.Receive(&w); k != plan.Failed || text != "why" || err != nil {
		t.Errorf("%c %q %v", k, text, err)
	}
}

func FuzzDecode(f *testing.F) {
	for seed := range uint64(3) {
		b, err := filled(seed).Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := plan.Decode(b)
		if err != nil {
			return
		}
		again, err := p.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("decoded and encoded again it differs: %v", err)
		}
	})
}
