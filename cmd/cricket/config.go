package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/cricket-cri/cricket/cri/config"
)

func configDefault(_ context.Context, _ []string, out io.Writer) error {
	_, err := out.Write(config.DefaultFile())
	return err
}

func configCheck(_ context.Context, args []string, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("usage: cricket config check FILE")
	}
	_, err := config.Load(args[0])
	var problems config.FileError
	if errors.As(err, &problems) {
		fmt.Fprintln(out, problems)
		return errQuiet
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, args[0]+": no mistakes")
	return err
}
