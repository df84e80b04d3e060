package probe

import "crypto/sha256"

func cpuProbes() []Probe {
	return []Probe{
		{Name: "sha256", Chapter: "cpu", MiB: 8.0 / 1024, open: openSHA},
		{Name: "matmul", Chapter: "cpu", open: openMatrix},
	}
}

func openSHA(string) (*bench, error) {
	buf := make([]byte, 8<<10)
	return timed(func(n int) error {
		for range n {
			h := sha256.Sum256(buf)
			copy(buf, h[:])
		}
		return nil
	}, nothing), nil
}

const side = 32

// multiply is the schoolbook product.
func multiply(a, b, c *[side][side]float64) {
	for i := range side {
		for j := range side {
			s := 0.0
			for k := range side {
				s += a[i][k] * b[k][j]
			}
			c[i][j] = s
		}
	}
}

func openMatrix(string) (*bench, error) {
	var a, b, c [side][side]float64
	for i := range side {
		for j := range side {
			a[i][j], b[i][j] = float64(i+j), float64(i-j)
		}
	}
	return timed(func(n int) error {
		for range n {
			multiply(&a, &b, &c)
		}
		return nil
	}, nothing), nil
}
