package main

import (
	"os"

	"github.com/hvctl/hvctl/images"
)

func main() {
	p := &program{backends: backends, openImages: images.Open, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	os.Exit(p.run(os.Args))
}
