"""The pages of `t2v studio`: a client, in the browser, of the endpoint of `t2v serve`."""
