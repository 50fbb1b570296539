package main

import (
	"context"
	"errors"
	"io"
)

func run(context.Context, []string, io.Writer, io.Writer) error {
	return errors.New("say loggregator-drain receive -help")
}
