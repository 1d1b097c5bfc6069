from jaxvae.cli import main

raise SystemExit(main())
