// The list of evaluations.
import { localTimes } from "./times.js";

localTimes();
